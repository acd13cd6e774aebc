"""The active rows of the head: ``gather_normalise``, ``normalise_backward(_)`` and ``add_rows_``.

The kernels are in ``head.cpp``, whose first lines say how many bytes each one moves. Arithmetic is in float32, and
results do not depend on the number of threads. Twins in plain torch: ``F.normalize(weight[ids], dim=1)`` and its
autograd, and ``total[places] += part`` for distinct places.
"""

import torch
from torch import Tensor

from kernels_inline.checks import check
from kernels_inline.dispatch import call
from kernels_inline.kernel_op import kernel_op


@kernel_op("gather_normalise", needs=("gather_normalise", "normalise_backward"))
def gather_normalise(weight: Tensor, ids: Tensor, half: bool) -> tuple[Tensor, Tensor]:
    """Rows of weight scaled to length 1, and what they were divided by.

    weight [N, d] float32, ids [A] int64, repeats allowed -> unit [A, d], bfloat16 if ``half`` else float32, and
    norms [A] float32, the lengths clamped below at 1e-12. Raises ValueError, BuildError.
    """
    _check_rows(weight, ids)
    unit, norms = _empty_units(weight, ids, half)
    _run("gather_normalise", "ids", len(weight), weight, *weight.shape, ids, len(ids), half, unit, norms)
    return unit, norms


@kernel_op("normalise_backward_", needs=("normalise_backward",), mutates=("grad",))
def normalise_backward_(grad: Tensor, weight: Tensor, ids: Tensor, norms: Tensor) -> None:
    """Turns the gradient of ``gather_normalise``'s unit rows into the one of the rows: (g - (g.u) u) / norm.

    grad [A, d] float32, in place; weight [N, d], ids [A] and norms [A] as ``gather_normalise`` took and gave them.
    A row at the clamp was divided by a constant, so its gradient is too. Raises ValueError, BuildError.
    """
    _check_rows(weight, ids)
    check("grad", grad, torch.float32, (len(ids), weight.shape[1]))
    check("norms", norms, torch.float32, (len(ids),))
    _run("normalise_backward", "ids", len(weight), grad, None, weight, *weight.shape, ids, len(ids), norms)


@kernel_op("normalise_backward", needs=("normalise_backward",))
def normalise_backward(slope: Tensor, weight: Tensor, ids: Tensor, norms: Tensor) -> Tensor:
    """``normalise_backward_`` for a gradient slope [A, d] in bfloat16 -> a new one in float32, in one pass."""
    _check_rows(weight, ids)
    check("slope", slope, torch.bfloat16, (len(ids), weight.shape[1]))
    check("norms", norms, torch.float32, (len(ids),))
    grad = slope.new_empty(slope.shape, dtype=torch.float32)
    _run("normalise_backward", "ids", len(weight), grad, slope, weight, *weight.shape, ids, len(ids), norms)
    return grad


@kernel_op("add_rows_", needs=("add_rows",), mutates=("total",))
def add_rows_(total: Tensor, places: Tensor, part: Tensor) -> None:
    """total [U, d] float32 += part [A, d] float32 or bfloat16 at rows places [A] int64, ascending and distinct."""
    check("total", total, torch.float32, ("U", "d"))
    check("places", places, torch.int64, ("A",))
    half = part.dtype == torch.bfloat16
    check("part", part, torch.bfloat16 if half else torch.float32, (len(places), total.shape[1]))
    if call("add_rows", total, places, part, half, len(places), *total.shape):
        raise ValueError(f"places should ascend, without repeats, within 0..{len(total) - 1}")


def _check_rows(weight: Tensor, ids: Tensor) -> None:
    check("weight", weight, torch.float32, ("N", "d"))
    check("ids", ids, torch.int64, ("A",))


def _run(function: str, ids: str, upper: int, *arguments) -> None:
    if call(function, *arguments):
        raise ValueError(f"{ids} holds a value out of range; all should lie in 0..{upper - 1}")


def _empty_units(weight: Tensor, ids: Tensor, half: bool) -> tuple[Tensor, Tensor]:
    dtype = torch.bfloat16 if half else torch.float32
    return weight.new_empty(ids.shape[0], weight.shape[1], dtype=dtype), weight.new_empty(ids.shape[0])


@gather_normalise.register_fake
def _(weight, ids, half):
    return _empty_units(weight, ids, half)


@normalise_backward_.register_fake
def _(grad, weight, ids, norms):
    return None


@normalise_backward.register_fake
def _(slope, weight, ids, norms):
    return slope.new_empty(slope.shape, dtype=torch.float32)


@add_rows_.register_fake
def _(total, places, part) -> None:
    return None
