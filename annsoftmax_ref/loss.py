"""From embeddings and the rows of one active set to the loss: product, margin, softmax, cross entropy.

In plain torch each of these is a pass over the [b, A] matrix, and autograd keeps several of them. The kernel
turns the cosines into their gradient in place, so that one matrix is made and kept. What concerns only the sample's
own label, its class's weight and whether it is to be ignored, is here too, for every objective alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.objectives import ArcFace, CosFace, CrossEntropy, DSoftmax, Objective
from annsoftmax_ref.rows import cosines
from kernels_inline.softmax_ops import margin_softmax_

# By exact type: a subclass with a formula of its own has no kernel.
KERNELS: dict[type[Objective], int] = {CrossEntropy: 0, CosFace: 1, ArcFace: 2, DSoftmax: 3}


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
    fused = kind is not None and offset is None and _product_has_kernel(x.device.type)
    if not fused or not backend.runs(margin_softmax_, x):
        losses = objective.loss_of(x, directions, targets, offset, generator)
        return share * (losses if weights is None else losses * weights).sum()
    return _FusedLoss.apply(x, directions, targets, kind, objective.scale, objective.margin, share, weights)


def without_ignored(embeddings: Tensor, labels: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """embeddings [B, d], labels [B] -> those whose label is not ignore_index; as given where no label is.

    What is not a batch is left as it is, for the checks that follow to say so.
    """
    given = (embeddings, labels)
    if ignore_index is None or not all(isinstance(t, Tensor) and t.dim() for t in given):
        return given
    kept = labels != ignore_index
    if kept.shape != embeddings.shape[:1] or kept.all():
        return given
    return embeddings[kept], labels[kept]


def mean_weights(class_weights: Tensor, labels: Tensor) -> Tensor:
    """class_weights [N], labels [B] -> w_y / sum of the batch's w_y [B], as in torch's weighted mean.

    All 0 where every sample's weight is 0; torch divides 0 by 0 there.
    """
    weights = class_weights[labels]
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    return weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def add_offsets(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """a + b, each [A] or None."""
    return b if a is None else a if b is None else a + b


def _kernel(objective: Objective) -> int | None:
    """The number of the objective's kernel; with label smoothing there is none."""
    return None if objective.needs_all_classes else KERNELS.get(type(objective))


def _product_has_kernel(device: str) -> bool:
    """The kernel takes float32 and bfloat16, not what else autocast may be set to."""
    return not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) == torch.bfloat16


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, directions, targets, kind: int, scale: float, margin: float, share: float, weights) -> Tensor:
        cosine = cosines(x, directions)  # [b, A], bfloat16 under autocast
        losses = margin_softmax_(cosine, targets, kind, scale, margin, share)
        ctx.save_for_backward(x, directions, cosine, weights)  # cosine holds d loss / d cosine by now
        return (losses if weights is None else losses * weights).sum() * share

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, directions, slope, weights = ctx.saved_tensors
        # The weights [b] scale rows of the products, so that no pass over [b, A] is added.
        factor = grad if weights is None else (grad * weights).unsqueeze(1)
        dx = ddirections = None
        if ctx.needs_input_grad[0]:
            dx = ((slope @ directions.to(slope.dtype)).to(x.dtype) * factor).to(x.dtype)
        if ctx.needs_input_grad[1]:
            ddirections = (slope.T @ (x * factor).to(slope.dtype)).to(directions.dtype)
        return dx, ddirections, None, None, None, None, None, None
