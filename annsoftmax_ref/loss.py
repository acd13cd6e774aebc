"""From embeddings and the rows of one active set to the loss: product, margin, softmax, cross entropy.

In plain torch each of these is a pass over the [b, A] matrix, and autograd keeps several of them. The kernel
turns the cosines into their gradient in place, so that one matrix is made and kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.objectives import Objective
from annsoftmax_ref.rows import cosines
from kernels_inline.softmax_ops import margin_softmax_


def scored_loss(
    x: Tensor,
    directions: Tensor,
    targets: Tensor,
    objective: Objective,
    share: float,
    offset: Tensor | None = None,
    weights: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """x [b, d] and directions [A, d], rows of length 1, targets [b] -> share * sum of the samples' losses, a scalar.

    offset [A]: added to the logits; the kernel has none. weights [b]: each sample's factor; None: 1.
    generator: of what the objective draws at random.
    """
    kind = _kernel(objective)
    fused = kind is not None and offset is None and _product_has_kernel(x.device.type, directions.dtype)
    if not fused or not backend.runs(margin_softmax_, x):
        return _plain_loss(x, directions, targets, objective, share, offset, weights, generator)
    return _FusedLoss.apply(x, directions, targets, weights, objective, share)


def add_offsets(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b, each [A] or None."""
    return b if a is None else a if b is None else a + b


def _kernel(objective: Objective) -> int | None:
    """The number of the objective's kernel; with label smoothing there is none."""
    return None if objective.needs_all_classes else objective.kernel


def _product_has_kernel(device: str, dtype: torch.dtype) -> bool:
    """The kernel takes float32 and bfloat16, not what else the directions or autocast may be set to."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    return not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) == torch.bfloat16


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, directions, targets, weights, objective: Objective, share: float) -> Tensor:
        cosine = cosines(x, directions)  # [b, A], bfloat16 under autocast
        losses = margin_softmax_(cosine, targets, _kernel(objective), objective.scale, objective.margin, share)
        ctx.save_for_backward(x, directions, cosine, targets, weights)  # cosine holds d loss / d cosine by now
        ctx.objective, ctx.share = objective, share
        return (losses if weights is None else losses * weights).sum() * share

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, directions, slope, targets, weights = ctx.saved_tensors
        nothing = None, None, None, None
        if torch.is_grad_enabled():  # create_graph: these gradients are to be differentiated in turn
            loss = _plain_loss(x, directions, targets, ctx.objective, ctx.share, None, weights, None)
            wanted = [t for t, needed in zip((x, directions), ctx.needs_input_grad[:2], strict=True) if needed]
            grads = iter(torch.autograd.grad(loss, wanted, grad, create_graph=True))
            return *(next(grads) if needed else None for needed in ctx.needs_input_grad[:2]), *nothing
        # The weights [b] scale rows of the products, so that no pass over [b, A] is added.
        factor = grad if weights is None else (grad * weights).unsqueeze(1)
        dx = ddirections = None
        if ctx.needs_input_grad[0]:
            dx = ((slope @ directions.to(slope.dtype)).to(x.dtype) * factor).to(x.dtype)
        if ctx.needs_input_grad[1]:
            ddirections = (slope.T @ (x * factor).to(slope.dtype)).to(directions.dtype)
        return dx, ddirections, *nothing


def _plain_loss(x, directions, targets, objective: Objective, share: float, offset, weights, generator) -> Tensor:
    losses = objective.loss_of(x, directions, targets, offset, generator)
    return share * (losses if weights is None else losses * weights).sum()
