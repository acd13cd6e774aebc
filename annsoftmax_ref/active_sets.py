"""Active sets: from each sample's nearest classes to the exactly A classes that a group is scored against."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from annsoftmax_ref import backend
from kernels_inline.select_ops import union_active as union_active_by_kernel


@dataclass(frozen=True)
class ActiveSet:
    """The classes that one group of samples is scored against.

    samples [b]: the group's positions in the batch. classes [A]: class ids, ascending.
    targets [b]: the column of each sample's own class in ``classes``. log_weights [A]: added to the logits, where a
    class stands for others left out: minus the logarithm of its chance to be in; None: every class for itself.
    """

    samples: Tensor
    classes: Tensor
    targets: Tensor
    log_weights: Tensor | None = None


def union_of(active: list[ActiveSet], num_classes: int) -> Tensor:
    """Every class of any active set, ascending."""
    if len(active) == 1:
        return active[0].classes
    member = torch.zeros(num_classes, dtype=torch.bool, device=active[0].classes.device)
    for group in active:
        member[group.classes] = True
    return member.nonzero().squeeze(1)


def labels_of(active: list[ActiveSet], batch: int) -> Tensor:
    """The labels [B] that active sets were made for."""
    labels = active[0].classes.new_empty(batch)
    for group in active:
        labels[group.samples] = group.classes[group.targets]
    return labels


def active_count(num_classes: int, sample_rate: float) -> int:
    """A = round(rate * N), at least 1 and at most N."""
    return min(num_classes, max(1, math.floor(sample_rate * num_classes + 0.5)))


def draw_fill(num_classes: int, count: int, generator: torch.Generator) -> Tensor:
    """Class ids [L] in a random order, enough of them that ``count`` distinct ones are very likely in it.

    Drawing with replacement and skipping repeats is uniform sampling without replacement. It costs O(count)
    where a permutation of all classes costs O(N); above half of the classes the permutation is cheaper.
    """
    if 2 * count >= num_classes:
        return torch.randperm(num_classes, generator=generator)
    # 1.39 count draws leave count distinct ones on average at count = N / 2; 2 count + 64 is safe.
    return torch.randint(num_classes, (2 * count + 64,), generator=generator)


def union_active(
    candidates: Tensor, labels: Tensor, fill_order: Tensor, count: int, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Union of the samples' candidates, positives always in, cut or filled to exactly ``count`` classes.

    candidates [b, k]: each sample's classes, nearest first, -1 where there is none. labels [b].
    fill_order [L]: classes to take, in this order, where the union is too small.
    Too large a union is cut by rank: every sample keeps its nearest classes (ties to the lower class id), so
    none starves. Returns (classes [count] ascending, targets [b]).
    Raises ValueError if the labels alone are more than ``count`` classes.
    Derived in notebook 06, section "Fill up".
    """
    if backend.runs(union_active_by_kernel, candidates):
        return union_active_by_kernel(candidates.contiguous(), labels, fill_order, count, num_classes)
    k = candidates.shape[1]
    unranked = k + 1
    # rank[c]: 0 for a label, 1 + best column for a candidate, unranked for the rest.
    rank = torch.full((num_classes + 1,), unranked, dtype=torch.int32, device=labels.device)
    if k:
        columns = torch.arange(1, k + 1, dtype=torch.int32, device=labels.device).expand_as(candidates)
        # -1 goes to the spare place N, which is dropped.
        places = torch.where(candidates < 0, num_classes, candidates).reshape(-1)
        rank.scatter_reduce_(0, places, columns.reshape(-1), "amin")
    rank = rank[:num_classes]
    rank[labels] = 0

    upto = torch.bincount(rank, minlength=unranked + 1).cumsum(0)  # classes of rank <= r
    positives, ranked = int(upto[0]), int(upto[k])
    if positives > count:
        raise ValueError(
            f"labels holds {positives} distinct classes, more than the {count} active classes of a "
            "group; raise sample_rate or lower the batch size"
        )
    if ranked >= count:
        last = int((upto >= count).nonzero()[0])
        chosen = rank < last
        at_cut = (rank == last).nonzero().squeeze(1)
        chosen[at_cut[: count - int(chosen.sum())]] = True
    else:
        chosen = rank < unranked
        chosen[_first_unused(fill_order, chosen, count - ranked)] = True
        short = count - int(chosen.sum())
        if short:  # the draw ran out
            chosen[(~chosen).nonzero().squeeze(1)[:short]] = True
    classes = chosen.nonzero().squeeze(1)
    return classes, torch.searchsorted(classes, labels)


def _first_unused(fill_order: Tensor, used: Tensor, wanted: int) -> Tensor:
    """The first ``wanted`` distinct ids of fill_order [L] that are not marked in used [N]."""
    fresh = fill_order[~used[fill_order]]
    order = torch.arange(len(fresh), device=fresh.device)
    first_seen = torch.full_like(used, len(fresh), dtype=torch.int64)
    first_seen.scatter_reduce_(0, fresh, order, "amin")
    return fresh[first_seen[fresh] == order][:wanted]
