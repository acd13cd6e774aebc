"""From embeddings and the rows of active sets to the loss: product, margin, softmax, cross entropy.

In plain torch each of these is a pass over the [b, A] matrix of each set, and autograd keeps several of them. The
kernel turns the cosines of all sets into their gradient in place, so that one matrix is made and kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.active_sets import FarClasses
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
    far: FarClasses | None = None,
) -> Tensor:
    """x [b, d] and directions [A, d], rows of length 1, targets [b] -> share * sum of the samples' losses, a scalar.

    offset [A]: added to the logits. weights [b]: each sample's factor; None: 1. generator: of what the objective draws
    at random. Each of them may have one more dimension in front, for G active sets at once: x [G, b, d], directions
    [G, A, d], targets [G, b] (-1: no sample in this place, whatever x and weights hold there), and so on; then far is
    what stands for the classes left out.
    """
    fused = has_kernel(objective) and product_has_kernel(x.device.type, directions.dtype)
    if not fused or not backend.runs(margin_softmax_, x):
        return _plain_loss(x, directions, targets, objective, share, offset, weights, generator, far)
    return _FusedLoss.apply(x, directions, targets, offset, weights, objective, share, far)


def add_offsets(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b, of one shape, or None."""
    return b if a is None else a if b is None else a + b


def with_far(directions: Tensor, offset: Tensor | None, far: FarClasses, g: int) -> tuple[Tensor, Tensor]:
    """directions [A, d], offset [A] of set g -> [A + L, d], [A + L]: more columns, which are nobody's target."""
    offset = directions.new_zeros(len(directions)) if offset is None else offset
    means, offsets = far.means.to(directions.dtype), far.offsets[g].to(offset.dtype)
    return torch.cat([directions, means]), torch.cat([offset, offsets])


def _kernel(objective: Objective) -> int | None:
    """The number of the objective's kernel; with label smoothing there is none."""
    return None if objective.needs_all_classes else objective.kernel


def has_kernel(objective: Objective) -> bool:
    """Whether a kernel computes it, for all active sets at once."""
    return _kernel(objective) is not None


def product_has_kernel(device: str, dtype: torch.dtype) -> bool:
    """The kernel takes float32 and bfloat16, not what else the directions or autocast may be set to."""
    if dtype not in (torch.float32, torch.bfloat16):
        return False
    return not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) == torch.bfloat16


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, directions, targets, offset, weights, objective: Objective, share: float, far) -> Tensor:
        cosine = cosines(x, directions)  # [G, b, A], bfloat16 under autocast
        aside = (None, None) if far is None else (cosines(x, far.means.to(directions.dtype)), far.offsets.float())
        losses = margin_softmax_(
            cosine.flatten(0, -2),
            targets.flatten(),
            _kernel(objective),
            objective.scale,
            objective.margin,
            share,
            None if offset is None else offset.detach().float().reshape(-1, offset.shape[-1]).contiguous(),
            None if far is None else aside[0].flatten(0, -2),
            aside[1],
        )
        # What was a cosine is now d loss / d cosine.
        ctx.save_for_backward(x, directions, cosine, targets, offset, weights, aside[0], *(far or ()))
        ctx.objective, ctx.share = objective, share
        return (losses if weights is None else losses * weights.flatten()).sum() * share

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, directions, slope, targets, offset, weights, far_slope, *far = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[3]
        far = FarClasses(*far) if far else None
        if torch.is_grad_enabled():  # create_graph: these gradients are to be differentiated in turn
            loss = _plain_loss(x, directions, targets, ctx.objective, ctx.share, offset, weights, None, far)
            inputs = [t for t, needed in zip((x, directions, offset), wanted, strict=True) if needed]
            grads = iter(torch.autograd.grad(loss, inputs, grad, create_graph=True))
            dx, ddirections, doffset = (next(grads) if needed else None for needed in wanted)
        else:
            # The weights scale rows of the products, so that no pass over [G, b, A] is added.
            factor = grad if weights is None else (grad * weights).unsqueeze(-1)
            dx = ddirections = doffset = None
            if wanted[0]:
                dx = (slope @ directions.to(slope.dtype)).to(x.dtype)
                if far is not None:
                    dx = dx + (far_slope @ far.means.to(slope.dtype)).to(x.dtype)
                dx = (dx * factor).to(x.dtype)
            if wanted[1]:
                ddirections = (slope.mT @ (x * factor).to(slope.dtype)).to(directions.dtype)
            if wanted[2]:  # an offset is added to scale * cosine
                doffset = (slope.to(offset.dtype) * factor).sum(dim=-2) / ctx.objective.scale
        return dx, ddirections, None, doffset, None, None, None, None


def _plain_loss(x, directions, targets, objective: Objective, share: float, offset, weights, generator, far) -> Tensor:
    if targets.dim() == 1:
        losses = objective.loss_of(x, directions, targets, offset, generator)
        return share * (losses if weights is None else losses * weights).sum()
    total = x.new_zeros(())
    for g, there in enumerate(targets >= 0):  # one active set after another
        rows, own_offset = directions[g], None if offset is None else offset[g]
        if far is not None:
            rows, own_offset = with_far(rows, own_offset, far, g)
        own_weights = None if weights is None else weights[g][there]
        total = total + _plain_loss(
            x[g][there], rows, targets[g][there], objective, share, own_offset, own_weights, generator, None
        )
    return total
