"""Active sets: from each sample's nearest classes to the exactly A classes that a group is scored against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.host_numbers import told
from kernels_inline.rows_rounded import random_bits, row_states
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


class FarClasses(NamedTuple):
    """Rows that stand for the classes outside of active sets: means [L, d], at most of length 1, scored like classes.

    offsets [G, L]: what each set adds to their logits; -inf where it leaves nothing out. They carry no gradient.
    """

    means: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class ActiveSets(Sequence):
    """The active sets of the G groups that partition a batch, in one tensor each; a sequence of ``ActiveSet``.

    samples [G, b]: each group's positions in the batch; a group with one sample less than the largest has -1 in its
    last place. classes [G, A], ascending in each row. targets [G, b]: columns of the samples' own classes, -1 where
    there is no sample. log_weights [G, A] or None, as ActiveSet's. far: what stands for all classes left out, or None.
    """

    samples: Tensor
    classes: Tensor
    targets: Tensor
    log_weights: Tensor | None = None
    far: FarClasses | None = None

    @staticmethod
    def of(sets: Sequence[ActiveSet]) -> ActiveSets:
        """Sets of equally many classes, those of the larger groups first, whose sizes differ by at most one."""
        samples, targets = (
            torch.nn.utils.rnn.pad_sequence([getattr(one, name) for one in sets], batch_first=True, padding_value=-1)
            for name in ("samples", "targets")
        )
        log_weights = None if sets[0].log_weights is None else torch.stack([one.log_weights for one in sets])
        return ActiveSets(samples, torch.stack([one.classes for one in sets]), targets, log_weights)

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, g: int) -> ActiveSet:
        there = self.samples[g] >= 0
        log_weights = None if self.log_weights is None else self.log_weights[g]
        return ActiveSet(self.samples[g][there], self.classes[g], self.targets[g][there], log_weights)

    def of_samples(self, values: Tensor) -> Tensor:
        """values [B, ...] of the batch's samples -> [G, b, ...]; where there is no sample, those of the first one."""
        if len(self) == 1:
            return values.unsqueeze(0)  # a single group is the batch in its order
        return values.index_select(0, self.samples.clamp_min(0).flatten()).unflatten(0, self.samples.shape)

    def labels(self) -> Tensor:
        """The labels [B] that the sets were made for."""
        there = self.samples >= 0
        labels = self.classes.new_empty(int(there.sum()))
        labels[self.samples[there]] = self.classes.gather(1, self.targets.clamp_min(0))[there]
        return labels


def active_count(num_classes: int, sample_rate: float) -> int:
    """A = round(rate * N), at least 1 and at most N."""
    return min(num_classes, max(1, math.floor(sample_rate * num_classes + 0.5)))


def draw_fill(num_classes: int, count: int, generator: torch.Generator, groups: int = 1, device=None) -> Tensor:
    """For each group class ids in a random order [G, L], enough that ``count`` distinct ones are very likely in it.

    Drawing with replacement and skipping repeats is uniform sampling without replacement. It costs O(count)
    where a permutation of all classes costs O(N); above half of the classes the permutation is cheaper.
    On a GPU the numbers are a hash of a seed that the generator gives, made there: other ones than on the CPU.
    """
    if device is not None and backend.shapes_are_fixed(torch.empty(0, device=device)):
        return _hashed_fill(num_classes, count, generator, groups, device)
    if 2 * count >= num_classes:
        return torch.stack([torch.randperm(num_classes, generator=generator) for _ in range(groups)])
    # 1.39 count draws leave count distinct ones on average at count = N / 2; 2 count + 64 is safe.
    return torch.randint(num_classes, (groups, 2 * count + 64), generator=generator)


def _hashed_fill(num_classes: int, count: int, generator: torch.Generator, groups: int, device) -> Tensor:
    seed = told(lambda: int(torch.randint(2**62, (), generator=generator)), device)
    states = row_states(seed, 0, torch.arange(groups, device=device))
    if 2 * count >= num_classes:
        return random_bits(states, num_classes).argsort(dim=1)
    return (random_bits(states, 2 * count + 64) >> 1 & (1 << 62) - 1) % num_classes


def union_active(
    candidates: Tensor, labels: Tensor, samples: Tensor, fill_order: Tensor, count: int, num_classes: int
) -> tuple[Tensor, Tensor]:
    """For each group the union of its samples' candidates, positives always in, cut or filled to ``count`` classes.

    candidates [B, k]: each sample's classes, nearest first, -1 where there is none. labels [B]. samples [G, b]: each
    group's, -1 where there is none. fill_order [G, L]: classes to take, in this order, where a union is too small.
    Too large a union is cut by rank: every sample keeps its nearest classes (ties to the lower class id), so
    none starves. Returns (classes [G, count] ascending in each row, targets [G, b], -1 where there is no sample).
    Raises ValueError if the labels of a group alone are more than ``count`` classes.
    Derived in notebook 06, section "Fill up".
    """
    if backend.runs(union_active_by_kernel, candidates):
        return union_active_by_kernel(
            candidates.contiguous(), labels.contiguous(), samples, fill_order, count, num_classes
        )
    targets = torch.full_like(samples, -1)
    classes = []
    for group, fill, places in zip(samples, fill_order, targets, strict=True):
        own = group[group >= 0]
        chosen, places[group >= 0] = _union_of_group(candidates[own], labels[own], fill, count, num_classes)
        classes.append(chosen)
    return torch.stack(classes), targets


def _union_of_group(
    candidates: Tensor, labels: Tensor, fill_order: Tensor, count: int, num_classes: int
) -> tuple[Tensor, Tensor]:
    """The same for candidates [b, k] and labels [b] of one group and fill_order [L]: classes [count], targets [b]."""
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
        chosen[first_unused(fill_order, chosen, count - ranked)] = True
    classes = chosen.nonzero().squeeze(1)
    return classes, torch.searchsorted(classes, labels)


def first_unused(fill_order: Tensor, used: Tensor, wanted: int) -> Tensor:
    """The first ``wanted`` distinct ids of fill_order [L] that are not marked in used [N], then the lowest ids."""
    fresh = fill_order[~used[fill_order]]
    order = torch.arange(len(fresh), device=fresh.device)
    first_seen = torch.full_like(used, len(fresh), dtype=torch.int64)
    first_seen.scatter_reduce_(0, fresh, order, "amin")
    found = fresh[first_seen[fresh] == order][:wanted]
    if len(found) < wanted:  # the draw ran out
        others = (~used.index_fill(0, found, True)).nonzero().squeeze(1)
        found = torch.cat([found, others[: wanted - len(found)]])
    return found
