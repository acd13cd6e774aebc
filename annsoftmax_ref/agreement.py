"""What all processes must know before a batch is scored: one small gather a step, on the host.

A batch that cannot be taken on one process, a signal to stop, an overflow: if only one process acted on it, the others
would wait for it in the next collective until a time-out. So each says first how many samples it has and what is the
matter, and all of them raise, stop or go on in the same step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from annsoftmax_ref.shards import Shards

TEXT = 512  # bytes of a sentence
ERRORS: tuple[type[Exception], ...] = (ValueError, TypeError)
KINDS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Agreed(NamedTuple):
    """sizes: samples of each process. overflowed: whether any embeddings have, in float16. wants_gradient: whether
    those of any process do."""

    sizes: list[int]
    overflowed: bool
    wants_gradient: bool


@dataclass
class Agreement:
    """steps: batches agreed on so far. wants_stop: say, at the next batch, that all are to stop; stopping: somebody has
    said so."""

    shards: Shards
    steps: int = 0
    wants_stop: bool = False
    stopping: bool = False

    def __call__(self, embeddings: Tensor, error: Exception | None, training: bool, overflowed: bool) -> Agreed:
        """Raises the error of the first process that has one, as that process does, naming it and the step."""
        self.steps += 1
        code = 0 if error is None else 1 + next(i for i, kind in enumerate(ERRORS) if isinstance(error, kind))
        mode = 0
        if error is None:
            mode = 4 * KINDS.index(embeddings.dtype) + 2 * torch.is_grad_enabled() + training
        wants = error is None and torch.is_grad_enabled() and embeddings.requires_grad
        rows = 0 if error is not None else len(embeddings)
        said = torch.tensor([rows, code, self.steps, self.wants_stop, mode, overflowed, wants], dtype=torch.int64)
        table = self.shards.gather_on_host(said, "header")
        rows, codes, steps, stops, modes, overflows, wanted = table.T.tolist()
        if any(codes):
            self._raise(codes, error)
        self._check_same("step", steps)
        self._check_same("mode (training, gradients, kind of embeddings)", modes)
        self.stopping = self.stopping or any(stops)
        return Agreed(rows, any(overflows), any(wanted))

    def _raise(self, codes: list[int], error: Exception | None) -> None:
        sentence = str(error or "").encode()[:TEXT]
        said = torch.zeros(TEXT, dtype=torch.uint8)
        said[: len(sentence)] = torch.tensor(list(sentence), dtype=torch.uint8)
        texts = self.shards.gather_on_host(said, "sentences")
        rank = next(rank for rank, code in enumerate(codes) if code)
        text = bytes(texts[rank].tolist()).rstrip(b"\0").decode(errors="ignore")
        raise ERRORS[codes[rank] - 1](f"process {rank} of {self.shards.ranks}, batch {self.steps}: {text}") from error

    def _check_same(self, what: str, values: list[int]) -> None:
        for rank, value in enumerate(values):
            if value != values[0]:
                raise ValueError(
                    f"process {rank} of {self.shards.ranks} is at {what} {value} and process 0 at {values[0]}; all "
                    "processes should call the head equally often and in the same way"
                )
