"""Tail: the searched classes for themselves, and a uniform sample of the others that stands for all of those.

After LSH Softmax (Levy, Chan and Ermon, ICLR 2018 submission) and Mussmann, Levy and Ermon (UAI 2017). Ours: one
sample for a group, positives always in. NumPy twin: ``annsoftmax_ref.reference.estimators.uniform_tail``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from annsoftmax_ref.active_sets import ActiveSet, ActiveSets, draw_fill, union_active
from annsoftmax_ref.grouping import members


@dataclass(frozen=True)
class Tail:
    """share: of the places of each active set, what goes to the sample; above 0 and below 1."""

    share: float

    def active_sets(self, selector, groups, x, labels, weight, generator) -> ActiveSets:
        """As ``Selector.select``, for groups [G, b] of samples, as ``ActiveSets`` has them."""
        count = selector.active_classes
        found = selector.search(groups, x, weight, places=(1 - self.share) * count)
        active = []
        for samples in members(groups):
            classes, targets, log_weights = tail_active(
                found[samples], labels[samples], count, self.share, selector.num_classes, generator
            )
            active.append(ActiveSet(samples, classes, targets, log_weights.to(x.dtype)))
        return ActiveSets.of(active)


def tail_active(
    candidates: Tensor, labels: Tensor, count: int, tail: float, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Searched classes S, and a uniform sample of the classes outside S: exactly ``count`` classes.

    candidates [b, k]: each sample's classes, nearest first, -1 where there is none. labels [b].
    S: labels and candidates, cut by rank to (1 - tail) * count; what it leaves free, at least one place, is the tail's.
    Positives come first: where they leave no place, there is no tail, and what is left out is not stood for.
    Returns classes [count] ascending, targets [b], log-weights [count] (float64): 0 in S, log((N - |S|) / l) for
    each of the l others. Raises ValueError if the labels alone are more than ``count`` classes.
    """
    inside = torch.zeros(num_classes + 1, dtype=torch.bool, device=labels.device)
    inside[labels] = True
    positives = int(inside.sum())
    inside[candidates] = True  # -1 is the spare place at the end
    wanted = count - max(1, math.floor(tail * count + 0.5))
    # Never above count, where union_active refuses too many labels.
    kept = min(count, int(inside[:-1].sum()), max(wanted, positives))
    everybody = torch.arange(len(labels), device=labels.device).unsqueeze(0)
    (searched,), _ = union_active(candidates, labels, everybody, labels.new_empty(1, 0), kept, num_classes)
    # What fills a union up is a uniform sample of the classes outside it.
    fill = draw_fill(num_classes, count, generator).to(labels.device)
    (classes,), _ = union_active(searched.unsqueeze(0), searched[:1], everybody[:, :1], fill, count, num_classes)
    places = count - kept
    each = math.log((num_classes - kept) / places) if places else 0.0
    log_weights = torch.full((count,), each, dtype=torch.float64, device=labels.device)
    log_weights[torch.searchsorted(classes, searched)] = 0.0
    return classes, torch.searchsorted(classes, labels), log_weights
