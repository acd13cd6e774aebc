"""The softmax head on its active rows: ``gather_normalise``, ``normalise_backward(_)`` and ``margin_softmax_``.

The kernels are in ``head.cpp``, whose first lines say how many bytes each one moves. Arithmetic is in float32, with
per-sample quantities in float64, and results do not depend on the number of threads. Twins in plain torch:
``F.normalize(weight[ids], dim=1)`` and its autograd, and ``annsoftmax_ref.objectives`` with autograd.
"""

import math

import torch
from torch import Tensor

from kernels_inline import build
from kernels_inline.checks import check, described
from kernels_inline.dispatch import needs

KINDS = {"cross_entropy": 0, "cosface": 1, "arcface": 2, "dsoftmax": 3}


@needs("gather_normalise", "normalise_backward")
@torch.library.custom_op("annsoftmax::gather_normalise", mutates_args=())
def gather_normalise(weight: Tensor, ids: Tensor, half: bool) -> tuple[Tensor, Tensor]:
    """Rows of weight scaled to length 1, and what they were divided by.

    weight [N, d] float32, ids [A] int64, repeats allowed -> unit [A, d], bfloat16 if ``half`` else float32, and
    norms [A] float32, the lengths clamped below at 1e-12. Raises ValueError, build.BuildError.
    """
    _check_rows(weight, ids)
    unit, norms = _empty_units(weight, ids, half)
    _run("gather_normalise", "ids", len(weight), weight, *weight.shape, ids, len(ids), half, unit, norms)
    return unit, norms


@needs("normalise_backward")
@torch.library.custom_op("annsoftmax::normalise_backward_", mutates_args=("grad",))
def normalise_backward_(grad: Tensor, weight: Tensor, ids: Tensor, norms: Tensor) -> None:
    """Turns the gradient of ``gather_normalise``'s unit rows into the one of the rows: (g - (g.u) u) / norm.

    grad [A, d] float32, in place; weight [N, d], ids [A] and norms [A] as ``gather_normalise`` took and gave them.
    A row at the clamp was divided by a constant, so its gradient is too. Raises ValueError, build.BuildError.
    """
    _check_rows(weight, ids)
    check("grad", grad, torch.float32, (len(ids), weight.shape[1]))
    check("norms", norms, torch.float32, (len(ids),))
    _run("normalise_backward", "ids", len(weight), grad, None, weight, *weight.shape, ids, len(ids), norms)


@needs("normalise_backward")
@torch.library.custom_op("annsoftmax::normalise_backward", mutates_args=())
def normalise_backward(slope: Tensor, weight: Tensor, ids: Tensor, norms: Tensor) -> Tensor:
    """``normalise_backward_`` for a gradient slope [A, d] in bfloat16 -> a new one in float32, in one pass."""
    _check_rows(weight, ids)
    check("slope", slope, torch.bfloat16, (len(ids), weight.shape[1]))
    check("norms", norms, torch.float32, (len(ids),))
    grad = slope.new_empty(slope.shape, dtype=torch.float32)
    _run("normalise_backward", "ids", len(weight), grad, slope, weight, *weight.shape, ids, len(ids), norms)
    return grad


@needs("margin_softmax")
@torch.library.custom_op("annsoftmax::margin_softmax_", mutates_args=("cosine",))
def margin_softmax_(cosine: Tensor, targets: Tensor, kind: int, scale: float, margin: float, weight: float) -> Tensor:
    """The loss of each sample; the cosines are overwritten by ``weight`` times their gradient.

    cosine [b, A] float32 or bfloat16, targets [b] int64: the column of each sample's own class, kind: a value of
    ``KINDS``, weight: 1 / b for a mean -> losses [b] float32. The formulas are those of
    ``annsoftmax_ref.objectives``. Raises ValueError, build.BuildError.
    """
    if cosine.dtype not in (torch.float32, torch.bfloat16) or cosine.dim() != 2:
        raise ValueError(f"cosine is {described(cosine)}; it should be a float32 or bfloat16 matrix")
    check("cosine", cosine, cosine.dtype, cosine.shape)
    check("targets", targets, torch.int64, cosine.shape[:1])
    if kind not in KINDS.values():
        raise ValueError(f"kind is {kind}; it should be one of {KINDS}")
    if not (0 < scale < math.inf and math.isfinite(margin) and math.isfinite(weight)):
        raise ValueError(f"scale, margin, weight are {scale}, {margin}, {weight}; they should be finite, scale above 0")
    losses = _empty_losses(cosine)
    half = cosine.dtype == torch.bfloat16
    arguments = cosine, half, *cosine.shape, targets, kind, scale, margin, weight, losses
    _run("margin_softmax", "targets", cosine.shape[1], *arguments)
    return losses


def _check_rows(weight: Tensor, ids: Tensor) -> None:
    check("weight", weight, torch.float32, weight.shape if weight.dim() == 2 else ("N", "d"))
    check("ids", ids, torch.int64, (ids.numel(),))


def _run(function: str, ids: str, upper: int, *arguments) -> None:
    if build.call(function, *arguments):
        raise ValueError(f"{ids} holds a value out of range; all should lie in 0..{upper - 1}")


def _empty_units(weight: Tensor, ids: Tensor, half: bool) -> tuple[Tensor, Tensor]:
    dtype = torch.bfloat16 if half else torch.float32
    return weight.new_empty(ids.shape[0], weight.shape[1], dtype=dtype), weight.new_empty(ids.shape[0])


def _empty_losses(cosine: Tensor) -> Tensor:
    return cosine.new_empty(cosine.shape[0], dtype=torch.float32)


@gather_normalise.register_fake
def _(weight, ids, half):
    return _empty_units(weight, ids, half)


@normalise_backward_.register_fake
def _(grad, weight, ids, norms):
    return None


@normalise_backward.register_fake
def _(slope, weight, ids, norms):
    return slope.new_empty(slope.shape, dtype=torch.float32)


@margin_softmax_.register_fake
def _(cosine, targets, kind, scale, margin, weight):
    return _empty_losses(cosine)
