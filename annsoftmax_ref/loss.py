"""From embeddings and the rows of one active set to the loss: product, margin, softmax, cross entropy.

In plain torch each of these is a pass over the [b, A] matrix, and autograd keeps several of them. The C++ kernel
turns the cosines into their gradient in place, so that one matrix is made and kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.objectives import ArcFace, CosFace, CrossEntropy, DSoftmax, Objective
from annsoftmax_ref.rows import cosines
from kernels_inline.head_ops import margin_softmax_

# By exact type: a subclass with a formula of its own has no kernel.
KERNELS: dict[type[Objective], int] = {CrossEntropy: 0, CosFace: 1, ArcFace: 2, DSoftmax: 3}


def scored_loss(
    x: Tensor, directions: Tensor, targets: Tensor, objective: Objective, share: float, offset: Tensor | None = None
) -> Tensor:
    """x [b, d] and directions [A, d], rows of length 1, targets [b] -> share * sum of the samples' losses, a scalar.

    offset [A]: added to the logits; the C++ kernel has none.
    """
    kind = KERNELS.get(type(objective))
    if kind is None or offset is not None or not backend.cpp(x) or not _product_has_kernel(x.device.type):
        return share * objective(cosines(x, directions), targets, offset).sum()
    return _FusedLoss.apply(x, directions, targets, kind, objective.scale, objective.margin, share)


def _product_has_kernel(device: str) -> bool:
    """The kernel takes float32 and bfloat16, not what else autocast may be set to."""
    return not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) == torch.bfloat16


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, directions, targets, kind: int, scale: float, margin: float, share: float) -> Tensor:
        cosine = cosines(x, directions)  # [b, A], bfloat16 under autocast
        losses = margin_softmax_(cosine, targets, kind, scale, margin, share)
        ctx.save_for_backward(x, directions, cosine)  # cosine holds d loss / d cosine by now
        return losses.sum() * share

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, directions, slope = ctx.saved_tensors
        dx = ddirections = None
        if ctx.needs_input_grad[0]:
            dx = (slope @ directions.to(slope.dtype)).to(x.dtype) * grad
        if ctx.needs_input_grad[1]:
            ddirections = (slope.T @ (x * grad).to(slope.dtype)).to(directions.dtype)
        return dx, ddirections, None, None, None, None, None
