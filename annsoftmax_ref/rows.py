"""Rows of a weight matrix: read some of them, and get a gradient for those only.

A head with N classes reads A of its N weight rows in a step. So the gradient has A rows (a ``torch.sparse_coo``
tensor, as ``nn.Embedding(sparse=True)`` gives), and an optimizer that touches only these leaves the others behind; it
is asked to bring them up to date before they are read (``annsoftmax_ref.row_parameter``).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.row_log import lie_together
from annsoftmax_ref.row_parameter import catch_up, row_state, unwatched
from kernels_inline.checks import gradient_kind
from kernels_inline.head_ops import (
    filled_union_rows,
    gather_normalise,
    merge_normalise_backward,
    merge_rows,
    normalise_backward,
    normalise_backward_,
    union_rows,
    union_rows_torch,
)
from kernels_inline.rerank_ops import rerank, rerank_torch


def gather_rows(weight: Tensor, ids: Tensor) -> Tensor:
    """weight [N, d], ids [A] ascending and distinct -> rows [A, d], whose gradient is row-sparse.

    The rows are brought up to date first, so that what is read is what a dense optimizer would have left.
    """
    with unwatched():
        catch_up(weight, ids)
        return _GatherRows.apply(weight, ids)


class Named(NamedTuple):
    """The rows that G sets name, each once, and where they are named.

    classes [G, A], ascending in each row; ids [U]: those of any set, ascending; on a GPU filled up with rows of none,
    so that U is known. Row ids[u] is named at the places ``places[starts[u] : starts[u + 1]]`` of the flat ``classes``,
    ascending; a single set has neither.
    """

    classes: Tensor
    ids: Tensor
    starts: Tensor | None = None
    places: Tensor | None = None

    def each(self, values: Tensor) -> Tensor:
        """values [U, ...] of the distinct rows -> [G, A, ...], those of each set."""
        if self.starts is None:
            return values.unsqueeze(0)
        where = torch.searchsorted(self.ids, self.classes)
        return values.index_select(0, where.flatten()).unflatten(0, where.shape)


def name_rows(classes: Tensor, num_rows: int) -> Named:
    """classes [G, A], ascending in each row -> which rows they are."""
    if len(classes) == 1:
        return Named(classes, classes[0])
    if backend.shapes_are_fixed(classes):  # how many there are depends on values
        return Named(classes, *filled_union_rows(classes, num_rows))
    union = union_rows if backend.runs(union_rows, classes) else union_rows_torch
    return Named(classes, *union(classes, num_rows))


def unit_rows_at(weight: Tensor, named: Named, half: bool = False) -> Tensor:
    """weight [N, d] -> each set's rows of it, scaled to length 1 [G, A, d].

    The same as ``named.each(unit_rows(gather_rows(weight, named.ids)))``, in one pass where the kernels run; ``half``:
    rounded to bfloat16, as autocast would before it multiplies.
    """
    if not backend.runs(gather_normalise, rows=weight):
        return named.each(unit_rows(gather_rows(weight, named.ids)))
    with unwatched():
        catch_up(weight, named.ids)
        return _UnitRows.apply(weight, named, half)


def unit_rows(x: Tensor) -> Tensor:
    """x [n, d] -> its rows scaled to length 1, in float32 at least: lengths are not to be rounded."""
    return F.normalize(widened(x), dim=1)


def widened(x: Tensor) -> Tensor:
    """x in float32 at least; the gradient of one in 8 bits is ``gradient_kind(x)``."""
    if x.dtype in (torch.float32, torch.float64):
        return x
    return _Widened.apply(x) if x.dtype == torch.float8_e4m3fn else x.float()


def cosines(x: Tensor, directions: Tensor) -> Tensor:
    """x [..., b, d], directions [..., A, d], rows of length 1 -> [..., b, A]; the product autocast may take in bf16."""
    return x.to(directions.dtype) @ directions.mT


def by_cosine(queries: Tensor, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """queries [B, d] of length 1, rows [N, d], candidates ids [B, k], -1 where there is none -> the same ids in the
    order of their exact cosines, and those: [B, k] each, -1 with -inf last."""
    return (rerank if backend.runs(rerank, queries, rows=rows) else rerank_torch)(queries, rows, ids)


def autocasts(x: Tensor) -> bool:
    """Whether autocast takes products of x in bfloat16."""
    kind = x.device.type
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16


def row_gradient(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight's sparse gradient [N, d] as (ids [A] ascending and distinct, values [A, d]).

    Autograd drops the mark "coalesced" where it stores a gradient, and stores the ids that it was given, which are
    known. Of others, it is much cheaper to look whether they ascend than to sort them again.
    """
    grad = weight.grad
    ids, known = grad._indices().squeeze(0), getattr(weight, "row_state", None)
    if not grad.is_coalesced() and (known is None or known.ascending is None or not lie_together(ids, known.ascending)):
        if not (ids.diff() > 0).all():
            grad = grad.coalesce()
    return grad._indices().squeeze(0), grad._values()


class _Widened(torch.autograd.Function):
    """``x.float()``, whose own gradient would be rounded to 8 bits."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.kind = gradient_kind(x)
        return x.float()

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad.to(ctx.kind)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.weight = weight
        rows = weight.index_select(0, ids)
        return rows.float() if rows.dtype == torch.float8_e4m3fn else rows

    @staticmethod
    def backward(ctx, grad: Tensor):
        (ids,) = ctx.saved_tensors
        return _row_sparse(ids, grad.to(gradient_kind(ctx.weight)), ctx.weight), None


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight: Tensor, named: Named, half: bool) -> Tensor:
        unit, norms = gather_normalise(weight.detach(), named.classes.flatten(), half)
        ctx.save_for_backward(*named, norms, unit)
        # Not saved as a tensor of the graph: rows outside ids may be caught up before the backward pass.
        ctx.weight, ctx.steps = weight, row_state(weight).steps_seen(weight)
        return unit.unflatten(0, named.classes.shape)

    @staticmethod
    def backward(ctx, grad: Tensor):
        *parts, norms, unit = ctx.saved_tensors
        named, grad = Named(*parts), grad.flatten(0, 1).contiguous()
        with unwatched():
            if torch.is_grad_enabled():  # create_graph: this gradient is to be differentiated in turn
                values = _differentiable(ctx.weight, named, grad)
            elif row_state(ctx.weight).steps_seen(ctx.weight) != ctx.steps:
                values = _of_earlier_rows(grad, named, unit, norms)
            else:
                values = _of_these_rows(grad, named, ctx.weight.detach(), norms)
            return _row_sparse(named.ids, values, ctx.weight), None, None


def _of_these_rows(grad: Tensor, named: Named, weight: Tensor, norms: Tensor) -> Tensor:
    """grad [G A, d] of the unit rows of each set -> that of the distinct rows [U, d]."""
    if named.starts is not None:
        return merge_normalise_backward(grad, weight, named.ids, named.starts, named.places, norms)
    if grad.dtype == torch.bfloat16:
        return normalise_backward(grad, weight, named.ids, norms)
    # In place: the gradient was made for this node alone (annsoftmax_ref.loss makes a new one each time).
    normalise_backward_(grad, weight, named.ids, norms)
    return grad


def _of_earlier_rows(grad: Tensor, named: Named, unit: Tensor, norms: Tensor) -> Tensor:
    """The same where the rows have moved since: from the unit rows [G A, d] and norms [G A] of the forward pass."""
    grad, unit, norms = grad.float(), unit.float(), norms.unsqueeze(1)
    if named.starts is not None:
        firsts = named.starts[:-1].clamp_max(len(named.places) - 1)  # of a row that is named nowhere, any place
        grad, first = merge_rows(grad, named.starts, named.places), named.places[firsts]
        unit, norms = unit[first], norms[first]
    turned = grad - (grad * unit).sum(dim=1, keepdim=True) * unit
    return torch.where(norms > 1e-12, turned, grad) / norms  # at the clamp, rows were divided by a constant


def _differentiable(weight: Tensor, named: Named, grad: Tensor) -> Tensor:
    """The same by torch's own formulas, which have derivatives."""
    rows = _GatherRows.apply(weight, named.ids)
    units = named.each(unit_rows(rows)).flatten(0, 1)
    (result,) = torch.autograd.grad(units, rows, grad.to(rows.dtype), create_graph=True)
    return result


def _row_sparse(ids: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    with unwatched():
        if hasattr(weight, "row_state"):
            weight.row_state.ascending = ids
        shape = weight.shape
    return torch.sparse_coo_tensor(ids.unsqueeze(0), grad, shape, is_coalesced=True, check_invariants=False)
