"""Tail: the searched classes for themselves, and a uniform sample of the others that stands for all of those.

After LSH Softmax (Levy, Chan and Ermon, ICLR 2018 submission) and Mussmann, Levy and Ermon (UAI 2017). Ours: one
sample for a group, positives always in. NumPy twin: ``annsoftmax_ref.reference.estimators.uniform_tail``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.active_sets import ActiveSets, draw_fill, union_active
from kernels_inline.weighted_ops import tail_active as tail_active_by_kernel


@dataclass(frozen=True)
class Tail:
    """share: of the places of each active set, what goes to the sample; above 0 and below 1."""

    share: float

    def active_sets(self, selector, groups, x, labels, weight, generator) -> ActiveSets:
        """As ``Selector.select``, for groups [G, b] of samples, as ``ActiveSets`` has them."""
        found, n = selector.search(groups, x, weight, 1 - self.share), selector.num_classes
        places = selector.places_of(found, labels, groups, 1 - self.share)
        count = selector.places_for(labels, None if places is None else round(places / (1 - self.share)))
        fill = draw_fill(n, count, generator, len(groups), labels.device)
        labels = selector.labels_here(labels, groups, fill, found)
        classes, targets, log_weights = tail_active(found, labels, groups, fill, count, self.share, n)
        return ActiveSets(groups, classes, targets, log_weights.to(x.dtype))


def tail_active(
    candidates: Tensor,
    labels: Tensor,
    samples: Tensor,
    fill_order: Tensor,
    count: int,
    tail: float,
    num_classes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """For each group searched classes S, and a uniform sample of the classes outside S: exactly ``count`` classes.

    candidates [B, k], labels [B], samples [G, b], fill_order [G, L]: as ``union_active`` has them.
    S: labels and candidates, cut by rank to (1 - tail) * count; what it leaves free, at least one place, is the tail's.
    Positives come first: where they leave no place, there is no tail, and what is left out is not stood for.
    Returns classes [G, count] ascending, targets [G, b], log-weights [G, count] (float64): 0 in S, log((N - |S|) / l)
    for each of the l others. Raises ValueError if the labels alone are more than ``count`` classes.
    """
    wanted = count - max(1, math.floor(tail * count + 0.5))
    if backend.runs(tail_active_by_kernel, candidates):
        return tail_active_by_kernel(
            candidates.contiguous(), labels.contiguous(), samples, fill_order, wanted, count, num_classes
        )
    targets = torch.full_like(samples, -1)
    classes, log_weights = [], []
    for group, fill, places in zip(samples, fill_order, targets, strict=True):
        own = group[group >= 0]
        chosen, places[group >= 0], weights = _tail_of_group(
            candidates[own], labels[own], fill[None], wanted, count, num_classes
        )
        classes.append(chosen)
        log_weights.append(weights)
    return torch.stack(classes), targets, torch.stack(log_weights)


def _tail_of_group(
    candidates: Tensor, labels: Tensor, fill_order: Tensor, wanted: int, count: int, num_classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for candidates [b, k] and labels [b] of one group and fill_order [1, L]."""
    inside = torch.zeros(num_classes + 1, dtype=torch.bool, device=labels.device)
    inside[labels] = True
    positives = int(inside.sum())
    inside[candidates] = True  # -1 is the spare place at the end
    # Never above count, where union_active refuses too many labels.
    kept = min(count, int(inside[:-1].sum()), max(wanted, positives))
    everybody = torch.arange(len(labels), device=labels.device).unsqueeze(0)
    (searched,), _ = union_active(candidates, labels, everybody, labels.new_empty(1, 0), kept, num_classes)
    # What fills a union up is a uniform sample of the classes outside it.
    (classes,), _ = union_active(searched.unsqueeze(0), searched[:1], everybody[:, :1], fill_order, count, num_classes)
    places = count - kept
    each = math.log((num_classes - kept) / places) if places else 0.0
    log_weights = torch.full((count,), each, dtype=torch.float64, device=labels.device)
    log_weights[torch.searchsorted(classes, searched)] = 0.0
    return classes, torch.searchsorted(classes, labels), log_weights
