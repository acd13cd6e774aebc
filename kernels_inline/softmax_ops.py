"""From cosines to the loss and the gradient, in place: ``margin_softmax_``.

The kernel is in ``softmax.cpp``, whose first lines say how many bytes it moves. Arithmetic is in float32, with
per-sample quantities in float64, and results do not depend on the number of threads. Twin in plain torch:
``annsoftmax_ref.objectives`` with autograd.
"""

import math

import torch
from torch import Tensor

from kernels_inline.checks import check
from kernels_inline.dispatch import call
from kernels_inline.kernel_op import kernel_op

KINDS = {"cross_entropy": 0, "cosface": 1, "arcface": 2, "dsoftmax": 3}


@kernel_op("margin_softmax_", needs=("margin_softmax",), mutates=("cosine",))
def margin_softmax_(
    cosine: Tensor, targets: Tensor, offset: Tensor | None, kind: int, scale: float, margin: float, share: float
) -> Tensor:
    """The loss of each row; the cosines are overwritten by ``share`` times their gradient.

    cosine [R, A] float32 or bfloat16, targets [R] int64: the column of each sample's own class, -1 in a row without a
    sample, whose loss and gradient are 0. offset [G, A] float32 or None: added to the logits of G active sets of R / G
    rows each, one after another; its gradient is the sum of that of a set's rows, over scale. kind: a value of
    ``KINDS``, share: 1 / b for a mean -> losses [R] float32. The formulas are those of ``annsoftmax_ref.objectives``.
    Raises ValueError, BuildError.
    """
    half = cosine.dtype == torch.bfloat16
    check("cosine", cosine, torch.bfloat16 if half else torch.float32, ("R", "A"))
    check("targets", targets, torch.int64, cosine.shape[:1])
    sets = 1
    if offset is not None:
        check("offset", offset, torch.float32, ("G", cosine.shape[1]))
        sets = len(offset)
        if sets == 0 or len(cosine) % sets:
            raise ValueError(f"offset has {sets} rows; the {len(cosine)} rows of cosine should be so many sets")
    if kind not in KINDS.values():
        raise ValueError(f"kind is {kind}; it should be one of {KINDS}")
    if not (0 < scale < math.inf and math.isfinite(margin) and math.isfinite(share)):
        raise ValueError(f"scale, margin, share are {scale}, {margin}, {share}; they should be finite, scale above 0")
    losses = _empty_losses(cosine)
    arguments = cosine, half, *cosine.shape, targets, offset, sets, kind, scale, margin, share, losses
    if call("margin_softmax", *arguments):
        raise ValueError(f"targets holds a value out of range; all should lie in -1..{cosine.shape[1] - 1}")
    return losses


def _empty_losses(cosine: Tensor) -> Tensor:
    return cosine.new_empty(cosine.shape[0], dtype=torch.float32)


@margin_softmax_.register_fake
def _(cosine, targets, offset, kind, scale, margin, share):
    return _empty_losses(cosine)
