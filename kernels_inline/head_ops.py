"""The active rows of the head: ``gather_normalise``, ``normalise_backward(_)``, and for the groups of a batch
``union_rows`` and ``merge_normalise_backward``.

Each of G groups has A active classes, and a class may be in several groups: it has one gradient, the sum over them.

    ids, starts, places = union_rows(classes, len(weight))
    unit, norms = gather_normalise(weight, classes.view(-1), half)
    ...                                             # slope [G A, d], the gradient of unit
    grad = merge_normalise_backward(slope, weight, ids, starts, places, norms)  # that of weight[ids]

The kernels are in ``head.cpp``, whose first lines say how many bytes each one moves. weight [N, d] is in float32 or
bfloat16; arithmetic is in float32, and results do not depend on the number of threads. Twins in plain torch:
``F.normalize(weight[ids], dim=1)`` and its autograd, ``union_rows_torch``, and for a merge ``merge_rows``.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels_inline.checks import check, check_rows, gradient_kind
from kernels_inline.dispatch import call
from kernels_inline.kernel_op import kernel_op

MERGE_ERRORS = {
    1: "ids holds a value out of range; all should lie in 0..N-1, the rows of weight [N, d]",
    2: "starts should ascend from 0 to P, the number of places",
    3: "places holds a value out of range; all should lie in 0..P-1, the rows of slope [P, d]",
}


@kernel_op("gather_normalise", needs=("gather_normalise", "normalise_backward"))
def gather_normalise(weight: Tensor, ids: Tensor, half: bool) -> tuple[Tensor, Tensor]:
    """Rows of weight scaled to length 1, and what they were divided by.

    weight [N, d], ids [A] int64, repeats allowed -> unit [A, d], bfloat16 if ``half`` else float32, and
    norms [A] float32, the lengths clamped below at 1e-12. Raises ValueError, BuildError.
    """
    kind = _check_rows(weight, ids)
    unit, norms = empty_units(weight, ids, half)
    _run("gather_normalise", "ids", len(weight), weight, kind, *weight.shape, ids, len(ids), half, unit, norms)
    return unit, norms


@kernel_op("normalise_backward_", needs=("normalise_backward",), mutates=("grad",))
def normalise_backward_(grad: Tensor, weight: Tensor, ids: Tensor, norms: Tensor) -> None:
    """Turns the gradient of ``gather_normalise``'s unit rows into the one of the rows: (g - (g.u) u) / norm.

    grad [A, d] float32, in place; weight [N, d], ids [A] and norms [A] as ``gather_normalise`` took and gave them.
    A row at the clamp was divided by a constant, so its gradient is too. Raises ValueError, BuildError.
    """
    kind = _check_rows(weight, ids)
    check("grad", grad, torch.float32, (len(ids), weight.shape[1]))
    check("norms", norms, torch.float32, (len(ids),))
    _run("normalise_backward", "ids", len(weight), grad, None, weight, kind, *weight.shape, ids, len(ids), norms)


@kernel_op("normalise_backward", needs=("normalise_backward",))
def normalise_backward(slope: Tensor, weight: Tensor, ids: Tensor, norms: Tensor) -> Tensor:
    """``normalise_backward_`` for a gradient slope [A, d] in bfloat16 -> a new one, ``gradient_kind(weight)``."""
    kind = _check_rows(weight, ids)
    check("slope", slope, torch.bfloat16, (len(ids), weight.shape[1]))
    check("norms", norms, torch.float32, (len(ids),))
    grad = slope.new_empty(slope.shape, dtype=gradient_kind(weight))
    _run("normalise_backward", "ids", len(weight), grad, slope, weight, kind, *weight.shape, ids, len(ids), norms)
    return grad


@kernel_op("union_rows", needs=("union_rows",))
def union_rows(classes: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct rows that the groups name, and where each is named.

    classes [G, A] int64, ids in 0..num_rows-1, each row ascending and distinct -> ids [U] ascending and distinct,
    starts [U + 1] and places [G A], all int64: places[starts[u] : starts[u + 1]] are the positions g A + a of
    classes that hold ids[u], ascending. U depends on the values. Raises ValueError, BuildError.
    """
    check("classes", classes, torch.int64, ("G", "A"))
    most = min(classes.numel(), num_rows)
    ids, starts, places = (classes.new_empty(n) for n in (most, most + 1, classes.numel()))
    found = call("union_rows", classes, *classes.shape, num_rows, ids, starts, places)
    if found < 0:
        raise ValueError(_fault_of_classes(inside=found != -1, num_rows=num_rows))
    return ids[:found], starts[: found + 1], places


def union_rows_torch(classes: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """``union_rows`` in plain torch, by sorting."""
    check("classes", classes, torch.int64, ("G", "A"))
    inside = bool(((classes >= 0) & (classes < num_rows)).all())
    if not (inside and (classes.diff(dim=1) > 0).all()):
        raise ValueError(_fault_of_classes(inside, num_rows))
    ids, owner, counts = classes.view(-1).unique(return_inverse=True, return_counts=True)
    return ids, F.pad(counts.cumsum(0), (1, 0)), owner.argsort(stable=True)


def filled_union_rows(classes: Tensor, num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """``union_rows`` of a size that does not depend on the values: min(G A, num_rows) rows, the lowest that no group
    names among them, which are named at no place (starts repeats).

    So a GPU is not waited for, and values are not looked at. Their gradient is 0: an optimizer that equals the dense
    one does with them what it would do anyway.
    """
    check("classes", classes, torch.int64, ("G", "A"))
    flat, size = classes.view(-1), min(classes.numel(), num_rows)
    counts = flat.new_zeros(num_rows, dtype=torch.int32).scatter_add_(0, flat, torch.ones_like(flat, dtype=torch.int32))
    free = counts == 0
    room = size - (num_rows - free.sum())
    taken = ~free | (free.cumsum(0) <= room)
    # Each row that is taken goes to its place; the others, all of them, behind the last one.
    place = torch.where(taken, taken.cumsum(0) - 1, size)
    everyone = torch.arange(num_rows, device=flat.device)
    ids = flat.new_empty(size + 1).scatter_(0, place, everyone)[:size]
    return ids, F.pad(counts[ids].cumsum(0), (1, 0)), flat.argsort(stable=True)


@kernel_op("merge_normalise_backward", needs=("merge_normalise_backward",))
def merge_normalise_backward(
    slope: Tensor, weight: Tensor, ids: Tensor, starts: Tensor, places: Tensor, norms: Tensor
) -> Tensor:
    """``normalise_backward`` of ``merge_rows(slope, starts, places)``, in one pass.

    slope [P, d] float32 or bfloat16, the gradient of unit rows; ids [U], starts [U + 1] and places [P] int64 as
    ``union_rows`` or ``filled_union_rows`` gives them; weight [N, d] and norms [P], where norms holds the same number
    at all places of a row -> grad [U, d], ``gradient_kind(weight)``, that of weight[ids]: 0 of a row without a place.
    Raises ValueError, BuildError.
    """
    half, kind = _check_merge(slope, weight, ids, starts, places, norms)
    grad = _empty_sums(weight, ids)
    code = call(
        "merge_normalise_backward", slope, half, weight, kind, *weight.shape, ids, len(ids), starts, places,
        len(places), norms, grad,
    )  # fmt: skip
    if code:
        raise ValueError(MERGE_ERRORS[code])
    return grad


def merge_rows(slope: Tensor, starts: Tensor, places: Tensor) -> Tensor:
    """The sum of slope over the places of each row, in float32 at least; on the CPU in their order.

    slope [P, d], starts [U + 1] and places [P] as ``union_rows`` gives them -> [U, d].
    """
    owner = torch.repeat_interleave(starts.diff(), output_size=len(places))
    dtype = torch.promote_types(slope.dtype, torch.float32)
    total = slope.new_zeros(len(starts) - 1, slope.shape[1], dtype=dtype)
    return total.index_add_(0, owner, slope.index_select(0, places).to(dtype))


def _check_rows(weight: Tensor, ids: Tensor) -> int:
    """The kind of weight."""
    check("ids", ids, torch.int64, ("A",))
    return check_rows("weight", weight, ("N", "d"))


def _check_merge(slope, weight, ids, starts, places, norms) -> tuple[int, int]:
    """The kinds of slope and weight."""
    kind = _check_rows(weight, ids)
    half = check_rows("slope", slope, ("P", weight.shape[1]), kinds=2)
    check("starts", starts, torch.int64, (len(ids) + 1,))
    check("places", places, torch.int64, (len(slope),))
    check("norms", norms, torch.float32, (len(slope),))
    return half, kind


def _fault_of_classes(inside: bool, num_rows: int) -> str:
    if not inside:
        return f"classes holds a value out of range; all should lie in 0..{num_rows - 1}"
    return "classes has a row that does not ascend; each should, without repeats"


def _run(function: str, ids: str, upper: int, *arguments) -> None:
    if call(function, *arguments):
        raise ValueError(f"{ids} holds a value out of range; all should lie in 0..{upper - 1}")


def empty_units(weight: Tensor, ids: Tensor, half: bool) -> tuple[Tensor, Tensor]:
    dtype = torch.bfloat16 if half else torch.float32
    return (
        weight.new_empty(ids.shape[0], weight.shape[1], dtype=dtype),
        weight.new_empty(ids.shape[0], dtype=torch.float32),
    )


def _empty_sums(weight: Tensor, ids: Tensor) -> Tensor:
    return weight.new_empty(ids.shape[0], weight.shape[1], dtype=gradient_kind(weight))


@gather_normalise.register_fake
def _(weight, ids, half):
    return empty_units(weight, ids, half)


@normalise_backward_.register_fake
def _(grad, weight, ids, norms):
    return None


@normalise_backward.register_fake
def _(slope, weight, ids, norms):
    return slope.new_empty(slope.shape, dtype=gradient_kind(weight))


@union_rows.register_fake
def _(classes, num_rows):
    rows = torch.library.get_ctx().new_dynamic_size()
    return classes.new_empty(rows), classes.new_empty(rows + 1), classes.new_empty(classes.numel())


@merge_normalise_backward.register_fake
def _(slope, weight, ids, starts, places, norms):
    return _empty_sums(weight, ids)
