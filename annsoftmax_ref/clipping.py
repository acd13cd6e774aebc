"""One gradient norm over a backbone and a head, whose gradients may be row-sparse and whose classes may be split.

``torch.nn.utils.clip_grad_norm_`` takes row-sparse gradients, too, if they are a head's (``row_gradient``); of split
classes it would take the norm of one process's rows for that of all (pytorch#180346), and is refused.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from annsoftmax_ref.head import SoftmaxHead
from annsoftmax_ref.row_gradient import summed
from annsoftmax_ref.row_parameter import unwatched


@torch.no_grad()
def clip_grad_norm_(parameters: Iterable[Tensor], head: SoftmaxHead | None, max_norm: float) -> Tensor:
    """Multiply all gradients by max_norm / norm, if their norm is larger. Returns the norm, a scalar, before that.

    parameters: those of the backbone, whose gradients are the same on all processes, as under DistributedDataParallel,
    or DTensors, as under FSDP2. head: its own are added, if they are not among these; where its classes are split, all
    processes call this together. A norm that is not finite multiplies by NaN, as torch's does.
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm}; it should be above 0")
    own = [] if head is None else list(head.parameters())
    others = [p for p in parameters if not any(p is mine for mine in own)]
    parts = [p.grad for p in others if p.grad is not None]
    squares = [_square(grad) for grad in parts]
    rows = [_values(p.grad) for p in own if p.grad is not None]
    here = sum((_square(grad) for grad in rows), torch.zeros(()))
    if head is not None and head.shards is not None:
        here = head.shards.total(here.to(head.weight.device), "norm")
    norm = (sum(squares, torch.zeros(())).to(here.device) + here).sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for grad in (*parts, *rows):
        grad.mul_(factor.to(grad.device, grad.dtype))
    return norm


def _square(grad: Tensor) -> Tensor:
    square = nn.utils.get_total_norm([grad.float() if grad.dtype.itemsize < 4 else grad]).square()
    # Of a DTensor, whose module takes most of a second to import: who has one has imported it.
    return square.full_tensor() if hasattr(square, "full_tensor") else square


def _values(grad: Tensor) -> Tensor:
    """Those of a sparse gradient, each row once, as a plain tensor in the same memory."""
    with unwatched():
        return summed(grad)._values() if grad.is_sparse else grad.detach()
