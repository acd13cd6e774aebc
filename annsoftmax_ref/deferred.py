"""The look at a batch on a GPU that the host does not wait for.

Whether every label is a class and every embedding finite is known on the device at once, and on the host when the
device has come that far, which may be a step behind. A host that waits for it in the forward pass has nothing queued
meanwhile, and the device idles. So the answer is copied to the host as soon as it is there, and taken by the backward
pass, when the whole forward pass is queued. A batch that cannot be taken is refused there, before any gradient exists
and any parameter has changed; where no backward pass follows, by the head's next call.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from annsoftmax_ref.checks import check_batch, is_sound, refuse_batch


@dataclass
class Asked:
    """fine: a flag on the host, once ``reached`` has happened. The batch and what it should be: for the sentence."""

    fine: Tensor
    reached: torch.cuda.Event
    batch: tuple[Tensor, Tensor, int, int]
    answered: bool = False

    def answer(self) -> None:
        """Wait for it; ValueError if the batch cannot be taken. The second time, nothing."""
        if not self.answered:
            self.answered = True
            self.reached.synchronize()
            if not self.fine:
                refuse_batch(*self.batch)


class BatchCheck:
    """The checks of a head's batches: at once on the CPU, on a GPU as above where a gradient is wanted."""

    def __init__(self):
        self._asked: Asked | None = None

    def __getstate__(self) -> dict:
        return {"_asked": None}  # a copied head has seen no batch

    def __call__(self, embeddings: Tensor, labels: Tensor, embedding_size: int, num_classes: int) -> Tensor:
        """embeddings [B, d], labels [B] -> labels that kernels can take, whatever the answer will be.

        Raises as ``checks.check_batch`` does, for what is of the wrong kind or shape at once.
        """
        self.answer()
        if not _is_deferred(embeddings):
            check_batch(embeddings, labels, embedding_size, num_classes)
            return labels
        fine, inside = is_sound(embeddings, labels, embedding_size, num_classes)
        batch = (embeddings.detach(), labels, embedding_size, num_classes)
        self._asked = Asked(fine.to("cpu", non_blocking=True), _mark(embeddings.device), batch)
        return torch.where(inside, labels, 0)

    def answer(self) -> None:
        """Wait for that of the last batch, if nobody has; ValueError if it cannot be taken."""
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.answer()

    def before_backward(self, loss: Tensor) -> Tensor:
        """The same loss, whose backward pass begins with the answer."""
        return loss if self._asked is None else _Answered.apply(loss, self._asked)


class _Answered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss: Tensor, asked: Asked) -> Tensor:
        ctx.asked = asked
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx, grad: Tensor):
        ctx.asked.answer()
        return grad, None


def _is_deferred(embeddings: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return False
    return isinstance(embeddings, Tensor) and embeddings.is_cuda and torch.is_grad_enabled()


def _mark(device: torch.device) -> torch.cuda.Event:
    """Happens when the device has done what it was given so far."""
    return torch.cuda.current_stream(device).record_event()
