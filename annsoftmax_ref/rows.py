"""Rows of a weight matrix: read some of them, and get a gradient for those only.

A head with N classes reads A of its N weight rows in a step. So the gradient has A rows (a ``torch.sparse_coo``
tensor, as ``nn.Embedding(sparse=True)`` gives), and an optimizer that touches only these leaves the others behind; it
is asked to bring them up to date before they are read (``annsoftmax_ref.row_parameter``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.row_parameter import catch_up, row_state, unwatched
from kernels_inline.head_ops import gather_normalise, normalise_backward, normalise_backward_


def gather_rows(weight: Tensor, ids: Tensor) -> Tensor:
    """weight [N, d], ids [A] ascending and distinct -> rows [A, d], whose gradient is row-sparse.

    The rows are brought up to date first, so that what is read is what a dense optimizer would have left.
    """
    with unwatched():
        catch_up(weight, ids)
        return _GatherRows.apply(weight, ids)


def unit_rows_at(weight: Tensor, ids: Tensor, half: bool = False) -> Tensor:
    """weight [N, d], ids [A] ascending and distinct -> its rows there, scaled to length 1 [A, d].

    The same as ``unit_rows(gather_rows(weight, ids))``, in one pass where the kernels run; ``half``: rounded to
    bfloat16, as autocast would before it multiplies.
    """
    if not backend.runs(gather_normalise, weight):
        return unit_rows(gather_rows(weight, ids))
    with unwatched():
        catch_up(weight, ids)
        return _UnitRows.apply(weight, ids, half)


def take_parts(directions: Tensor, places: list[Tensor]) -> tuple[Tensor, ...]:
    """directions [U, d], places: for each group, rows [A] ascending and distinct -> each group's rows [A, d].

    ``directions[p]`` for each p, but one node for all groups: autograd would make a gradient [U, d] for each.
    """
    return _TakeParts.apply(directions, *places)


def unit_rows(x: Tensor) -> Tensor:
    """x [n, d] -> its rows scaled to length 1, in float32 at least: lengths are not to be rounded."""
    if x.dtype in (torch.bfloat16, torch.float16):
        x = x.float()
    return F.normalize(x, dim=1)


def cosines(x: Tensor, directions: Tensor) -> Tensor:
    """x [b, d], directions [A, d], rows of length 1 -> [b, A]; the one product autocast may take in bf16."""
    return x.to(directions.dtype) @ directions.T


def row_gradient(grad: Tensor) -> tuple[Tensor, Tensor]:
    """A sparse gradient [N, d] as (ids [A] ascending and distinct, values [A, d]).

    Autograd drops the mark "coalesced" where it stores a gradient; looking whether the ids ascend is much
    cheaper than sorting them again.
    """
    if not grad.is_coalesced():
        ids = grad._indices().squeeze(0)
        if not (ids.diff() > 0).all():
            grad = grad.coalesce()
    return grad._indices().squeeze(0), grad._values()


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shape = weight.shape
        return weight.index_select(0, ids)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (ids,) = ctx.saved_tensors
        return _row_sparse(ids, grad, ctx.shape), None


class _TakeParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx, directions: Tensor, *places: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*places)
        ctx.like = directions.new_empty(0)
        ctx.shape = directions.shape
        return tuple(directions.index_select(0, p) for p in places)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        # Sums over groups in float32 at least, whatever the parts were multiplied in.
        dtype = torch.promote_types(ctx.like.dtype, torch.float32)
        total = torch.zeros(ctx.shape, dtype=dtype, device=ctx.like.device)
        for places, grad in zip(ctx.saved_tensors, grads, strict=True):
            total.index_add_(0, places, grad.to(dtype))
        return total.to(ctx.like.dtype), *[None] * len(grads)


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight: Tensor, ids: Tensor, half: bool) -> Tensor:
        unit, norms = gather_normalise(weight.detach(), ids, half)
        ctx.save_for_backward(ids, norms, unit)
        # Not saved as a tensor of the graph: rows outside ids may be caught up before the backward pass.
        ctx.weight, ctx.steps = weight, row_state(weight).steps_seen(weight)
        return unit

    @staticmethod
    def backward(ctx, grad: Tensor):
        ids, norms, unit = ctx.saved_tensors
        with unwatched():
            if torch.is_grad_enabled():  # create_graph: this gradient is to be differentiated in turn
                return _row_sparse(ids, _differentiable(ctx.weight, ids, grad), ctx.weight.shape), None, None
            grad, weight = grad.contiguous(), ctx.weight.detach()
            if row_state(ctx.weight).steps_seen(ctx.weight) != ctx.steps:
                grad = _normalise_backward(grad.float(), unit.float(), norms.unsqueeze(1))
            elif grad.dtype == torch.bfloat16:
                grad = normalise_backward(grad, weight, ids, norms)
            else:
                # In place: the gradient was made for this node alone (annsoftmax_ref.loss makes a new one each time).
                normalise_backward_(grad, weight, ids, norms)
            return _row_sparse(ids, grad, ctx.weight.shape), None, None


def _normalise_backward(grad: Tensor, unit: Tensor, norms: Tensor) -> Tensor:
    """For rows that are no longer those of the forward pass: from the unit rows [A, d] and norms [A, 1] kept of it."""
    turned = grad - (grad * unit).sum(dim=1, keepdim=True) * unit
    return torch.where(norms > 1e-12, turned, grad) / norms  # at the clamp, rows were divided by a constant


def _differentiable(weight: Tensor, ids: Tensor, grad: Tensor) -> Tensor:
    """grad [A, d] of the unit rows -> that of the rows, by torch's own formulas, which have derivatives."""
    rows = _GatherRows.apply(weight, ids)
    (result,) = torch.autograd.grad(unit_rows(rows), rows, grad.to(rows.dtype), create_graph=True)
    return result


def _row_sparse(ids: Tensor, grad: Tensor, shape: torch.Size) -> Tensor:
    return torch.sparse_coo_tensor(ids.unsqueeze(0), grad, shape, is_coalesced=True, check_invariants=False)
