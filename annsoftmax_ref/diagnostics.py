"""Diagnostics: what a head's active sets miss, measured against the full softmax.

Cost: one full softmax, forward and backward, for the samples given (4 B N d operations and B N numbers of
memory), on top of the selection itself. Sample it every few hundred steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from annsoftmax_ref.active_sets import ActiveSets
from annsoftmax_ref.checks import check_batch
from annsoftmax_ref.loss import add_offsets, with_far
from annsoftmax_ref.rows import cosines, unit_rows


@torch.inference_mode(False)  # a gradient is taken
def diagnose(head, embeddings: Tensor, labels: Tensor, k: int = 50) -> dict[str, float | None]:
    """embeddings [B, d], labels [B] -> numbers, with head, generator and gradients left as they were.

    recall: of each sample's k nearest other classes, the share in its active set.
    captured_mass: of the full softmax's mass on other classes, sum of e^{s z}, the share in its active set.
    active_share: the share of the classes in a sample's active set, their mean.
    z_error: of the partition function over other classes as the active set gives it, with log-weights and with what
    stands for the classes left out, the signed relative error, (Z_active - Z) / Z, the samples' mean: captured_mass - 1
    where there is neither.
    gradient_error: |g - g_full| / |g_full| of the loss's gradient with respect to the embeddings [B, d].
    code_age: mean number of steps since a class's code was written (None without an index).
    stale_bits: share of code bits that a fresh encoding would change (None without an index).
    Derived in notebook 08, section "What do the active sets miss?".
    """
    check_batch(embeddings, labels, head.embedding_size, head.num_classes)
    labels = labels.clone(memory_format=torch.contiguous_format)
    k = min(k, head.num_classes - 1)
    # A copy, so that looking does not change what training draws next.
    generator = torch.Generator()
    generator.set_state(head.generator.get_state())
    with torch.no_grad():
        x = unit_rows(embeddings.detach().clone())
        head.sync()
        active = head.selector.select(x, labels, head.weight, generator)
        cosine = cosines(x, head.prototypes())  # [B, N]
    stands_for = torch.zeros_like(cosine)  # [B, N]: how many classes each active one counts for
    for group in active:
        row = stands_for.new_zeros(head.num_classes)
        row[group.classes] = 1.0 if group.log_weights is None else group.log_weights.exp().to(row.dtype)
        stands_for[group.samples] = row
    inside = stands_for > 0
    cosine.scatter_(1, labels.unsqueeze(1), -torch.inf)  # other classes only
    nearest = cosine.topk(max(k, 1), dim=1).indices
    logits = head.objective.scale * cosine
    logits = logits if head.bias is None else logits + head.bias
    mass = logits.softmax(dim=1)
    counted = (mass * stands_for).sum(dim=1)  # [B]: of the partition function
    if active.far is not None:
        counted += (_far_logits(head, x, active).logsumexp(dim=1) - logits.logsumexp(dim=1)).exp()
    result = {
        "recall": inside.gather(1, nearest).double().mean().item() if k else 1.0,
        "captured_mass": (mass * inside).sum(dim=1).mean().item() if k else 1.0,
        "active_share": inside.double().mean().item(),
        "z_error": counted.mean().item() - 1 if k else 0.0,
        "gradient_error": _gradient_error(head, x, labels, active),
        "code_age": None,
        "stale_bits": None,
    }
    index = getattr(head.selector, "index", None)
    if index is not None:
        result.update(code_age=index.code_age(), stale_bits=index.stale_bits(head.weight))
    return result


def _gradient_error(head, x: Tensor, labels: Tensor, active: ActiveSets) -> float:
    everybody, classes = (torch.arange(n, device=x.device).unsqueeze(0) for n in (len(x), head.num_classes))
    full = _gradient(head, x, labels, ActiveSets(everybody, classes, labels.unsqueeze(0)))
    sampled = _gradient(head, x, labels, active)
    return ((sampled - full).norm() / full.norm().clamp_min(1e-30)).item()


def _gradient(head, x: Tensor, labels: Tensor, active: ActiveSets) -> Tensor:
    """Gradient [B, d] of the summed loss of x [B, d], rows of length 1, over the active sets."""
    prototypes, total = head.prototypes(), 0.0
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        for g, group in enumerate(active):
            rows = prototypes[group.classes]
            offset = add_offsets(None if head.bias is None else head.bias.detach()[group.classes], group.log_weights)
            if active.far is not None:
                rows, offset = with_far(rows, offset, active.far, g)
            losses = head.objective(cosines(leaf[group.samples], rows), group.targets, offset)
            weights = 1.0 if head.class_weights is None else head.class_weights[labels[group.samples]]
            total = total + (losses * weights).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
    # Only the part across x turns the embedding: its length does not enter the loss.
    return gradient - (gradient * x).sum(dim=1, keepdim=True) * x


def _far_logits(head, x: Tensor, active: ActiveSets) -> Tensor:
    """Of what stands for the classes left out of each sample's set [B, L]."""
    offsets = torch.empty(len(x), len(active.far.means), dtype=x.dtype, device=x.device)
    for samples, own in zip(active.samples, active.far.offsets, strict=True):
        offsets[samples[samples >= 0]] = own.to(x.dtype)
    return head.objective.scale * cosines(x, active.far.means.to(x.dtype)) + offsets
