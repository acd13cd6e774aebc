"""What a softmax needs of a set of classes: each sample's own logit, and log sum of e^logit over all others.

Unlike ``annsoftmax_ref.loss`` it knows no objective, so that the sums of several sets can be put together before an
objective makes a loss of them: sets of classes on several processes (``annsoftmax_ref.sharded_loss``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.active_sets import FarClasses
from annsoftmax_ref.loss import product_has_kernel
from annsoftmax_ref.rows import cosines
from kernels_inline import logit_sums_ops as ops


def logit_sums(
    x: Tensor, directions: Tensor, targets: Tensor, scale: float, offset: Tensor | None, far: FarClasses | None
) -> tuple[Tensor, Tensor]:
    """x [G, b, d] and directions [G, A, d], rows of length 1, targets [G, b] -> own [G, b], others [G, b].

    targets: the column of each sample's own class, -1 where it is not among them; own is 0 there. offset [G, A]: added
    to the logits, scale * cosine. far: columns more, which are nobody's target. others is -inf where there are none.
    A gradient has none in turn.
    """
    return _LogitSums.apply(x, directions, targets, scale, offset, *(far or (None, None)))


class _LogitSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, directions, targets, scale: float, offset, means, far_offset) -> tuple[Tensor, Tensor]:
        ctx.fused = product_has_kernel(x.device.type, directions.dtype) and backend.runs(ops.logit_sums, x)
        cosine = cosines(x, directions)  # [G, b, A], bfloat16 under autocast
        far = None if means is None else cosines(x, means.to(directions.dtype)).flatten(0, -2)
        aside = _rows(offset, ctx.fused), far, _rows(far_offset, ctx.fused)
        sums = ops.logit_sums if ctx.fused else ops.logit_sums_torch
        own, others = sums(cosine.flatten(0, -2), targets.flatten(), scale, *aside)
        ctx.save_for_backward(x, directions, targets, others, means, *aside)
        ctx.scale, ctx.cosine, ctx.kind = scale, cosine, cosine.dtype
        return own.view(targets.shape), others.view(targets.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_own: Tensor, d_others: Tensor):
        x, directions, targets, others, means, offset, far, far_offset = ctx.saved_tensors
        slopes_ = ops.logit_slopes_ if ctx.fused else ops.logit_slopes_torch_
        # Cosines become slopes in place. Of a graph that is retained, the product is taken once more.
        slope, ctx.cosine = ctx.cosine, None
        slope = x.to(ctx.kind) @ directions.mT.to(ctx.kind) if slope is None else slope
        far = None if far is None else far.clone()
        slopes_(
            slope.flatten(0, -2),
            targets.flatten(),
            ctx.scale,
            others,
            d_own.reshape(-1).to(others.dtype).contiguous(),
            d_others.reshape(-1).to(others.dtype).contiguous(),
            offset,
            far,
            far_offset,
        )
        dx = ddirections = doffset = None
        if ctx.needs_input_grad[0]:
            dx = (slope @ directions.to(slope.dtype)).to(x.dtype)
            if far is not None:
                dx = dx + (far.view(*targets.shape, -1) @ means.to(slope.dtype)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            ddirections = (slope.mT @ x.to(slope.dtype)).to(directions.dtype)
        if ctx.needs_input_grad[4]:  # an offset is added to scale * cosine
            doffset = slope.sum(dim=-2, dtype=others.dtype) / ctx.scale
        return dx, ddirections, None, None, doffset, None, None


def _rows(offset: Tensor | None, fused: bool) -> Tensor | None:
    """offset [G, n] as the ops take it."""
    if offset is None:
        return None
    return (offset.detach().float() if fused else offset.detach()).contiguous()
