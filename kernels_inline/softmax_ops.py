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


@kernel_op("margin_softmax_", needs=("margin_softmax",), mutates=("cosine", "far"))
def margin_softmax_(
    cosine: Tensor,
    targets: Tensor,
    kind: int,
    scale: float,
    margin: float,
    share: float,
    offset: Tensor | None = None,
    far: Tensor | None = None,
    far_offset: Tensor | None = None,
) -> Tensor:
    """The loss of each row; the cosines are overwritten by ``share`` times their gradient.

    cosine [R, A] float32 or bfloat16, targets [R] int64: the column of each sample's own class, -1 in a row without a
    sample, whose loss and gradient are 0. offset [G, A] float32: added to the logits of G active sets of R / G rows
    each, one after another; under cross entropy its gradient is the sum of that of a set's rows, over scale (a margin
    that bends the target's cosine has another slope there). far [R, L] in cosine's type, far_offset [G, L] float32:
    more columns of the same kind, which are nobody's target. kind: a value of ``KINDS``, share: 1 / b for a mean ->
    losses [R] float32. The formulas are those of ``annsoftmax_ref.objectives``.
    Raises ValueError, BuildError.
    """
    columns = checked_columns(cosine, targets, offset, far, far_offset)
    if kind not in KINDS.values():
        raise ValueError(f"kind is {kind}; it should be one of {KINDS}")
    if not (0 < scale < math.inf and math.isfinite(margin) and math.isfinite(share)):
        raise ValueError(f"scale, margin, share are {scale}, {margin}, {share}; they should be finite, scale above 0")
    losses = _empty_losses(cosine)
    raise_for(call("margin_softmax", *columns, kind, scale, margin, share, losses), cosine)
    return losses


def checked_columns(cosine: Tensor, targets: Tensor, offset, far, far_offset) -> tuple:
    """The arguments that launchers over logits begin with, described at ``margin_softmax_``, once they are checked."""
    half = cosine.dtype == torch.bfloat16
    dtype = torch.bfloat16 if half else torch.float32
    check("cosine", cosine, dtype, ("R", "A"))
    check("targets", targets, torch.int64, cosine.shape[:1])
    if far is not None:
        check("far", far, dtype, (len(cosine), "L"))
    elif far_offset is not None:
        raise ValueError("far_offset is given, and far is None; they should be given together")
    sets = _check_sets("offset", offset, cosine) if far_offset is None else _check_sets("far_offset", far_offset, far)
    if offset is not None:
        check("offset", offset, torch.float32, (sets, cosine.shape[1]))
    return cosine, half, *cosine.shape, targets, offset, sets, far, 0 if far is None else far.shape[1], far_offset


def raise_for(code: int, cosine: Tensor) -> None:
    """ValueError if a launcher over logits has returned that a target is out of range."""
    if code:
        raise ValueError(f"targets holds a value out of range; all should lie in -1..{cosine.shape[1] - 1}")


def _check_sets(name: str, offset: Tensor | None, columns: Tensor) -> int:
    """G, of offset [G, n] for columns [R, n]; 1 where there is none."""
    if offset is None:
        return 1
    check(name, offset, torch.float32, ("G", columns.shape[1]))
    if len(offset) == 0 or len(columns) % len(offset):
        raise ValueError(f"{name} has {len(offset)} rows; the {len(columns)} rows of cosines should be so many sets")
    return len(offset)


def _empty_losses(cosine: Tensor) -> Tensor:
    return cosine.new_empty(cosine.shape[0], dtype=torch.float32)


@margin_softmax_.register_fake
def _(cosine, targets, kind, scale, margin, share, offset=None, far=None, far_offset=None):
    return _empty_losses(cosine)
