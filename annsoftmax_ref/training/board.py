"""A log for TensorBoard, by the library's own writer."""

from __future__ import annotations

import os

from annsoftmax_ref.training.history import Epoch

EVERY = 10  # steps


class Board:
    """Scalars of a run in a folder: loss, learning rate and steps a second, and what each epoch ended with.

    Raises ValueError where TensorBoard is not installed.
    """

    def __init__(self, folder: str | os.PathLike, first_step: int = 0):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                f"log is {folder}, and TensorBoard is not installed; pip install tensorboard, or leave it out"
            ) from error
        # What an interrupted run wrote of steps that are now taken again is not shown.
        self._writer = SummaryWriter(os.fspath(folder), purge_step=first_step + 1)

    def on_step(self, step: int, loss: float, lr: float) -> None:
        if step % EVERY == 0:
            self._writer.add_scalar("train/loss", loss, step)
            self._writer.add_scalar("train/learning rate", lr, step)

    def on_epoch(self, step: int, row: Epoch) -> None:
        self._writer.add_scalar("epoch/loss", row.loss, step)
        self._writer.add_scalar("epoch/head ms", row.head_ms, step)
        if row.accuracy is not None:
            self._writer.add_scalar("epoch/accuracy", row.accuracy, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
