"""Selectors: which classes a batch is scored against.

A selector turns a batch into active sets, one for each group of samples. ``AllClasses`` is the full softmax,
``RandomClasses`` what PartialFC does, ``NearestClasses`` (``annsoftmax_ref.nearest``) ANN Softmax. A head owns one
selector and binds it to its number of classes; the selector never changes the weights, and what it chooses carries
no gradient.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from annsoftmax_ref.active_sets import ActiveSets, active_count, draw_fill, union_active
from annsoftmax_ref.checks import check_positive_int, check_rate
from annsoftmax_ref.grouping import groups_by_rule, random_groups, similar_groups
from annsoftmax_ref.row_change import Commit, RowChange
from annsoftmax_ref.shards import Shards


class Selector(nn.Module, ABC):
    """Base of the selectors. ``bind`` is called once by the head, the others for each training batch, in the
    order ``check_budget``, ``prepare``, ``select``, ``observe``.

    sample_rate: A / N, for each group. groups: active sets per batch; None: ``grouping.groups_by_rule``. grouping:
    which samples share a set, "similar" ones or "random" ones. Raises ValueError or TypeError for others.
    """

    takes_all = False  # whether every class is in every active set
    can_be_recorded = False  # whether its part of a step can be replayed (annsoftmax_ref.captured)
    num_classes: int | None = None  # that it chooses from; None until it is bound
    shards: Shards | None = None  # where the classes are split over processes, whose num_classes are those here

    def __init__(self, sample_rate: float = 1.0, groups: int | None = 1, grouping: str = "similar"):
        super().__init__()
        self.sample_rate = check_rate(sample_rate)
        self.groups = groups if groups is None else check_positive_int("groups", groups)
        if grouping not in ("random", "similar"):
            raise ValueError(f"grouping is {grouping!r}; it should be 'random' or 'similar'")
        self.grouping = grouping

    def bind(self, num_classes: int, embedding_size: int, scale: float = 1.0) -> None:
        """scale: what a cosine is multiplied by to be a logit. ValueError if another head has the selector already."""
        if self.num_classes is not None:
            raise ValueError(
                f"selector is a {type(self).__name__} that is already bound to a head of {self.num_classes} classes, "
                "whose rows it keeps track of; it should be a new one for each head"
            )
        self.num_classes, self.embedding_size, self.scale = num_classes, embedding_size, scale

    def check_objective(self, objective) -> None:
        """ValueError if the objective asks for what this selector cannot give: the logits of all classes."""
        if objective.needs_all_classes and not self.takes_all:
            raise ValueError(
                f"objective is {objective}, which needs the logits of all classes; {type(self).__name__} leaves "
                "classes out: take AllClasses, or leave label_smoothing at 0"
            )

    def split(self, shards: Shards) -> None:
        """Told by the head, before ``bind``: the classes are split. ValueError if they cannot be."""
        self.shards = shards

    @property
    def present_rate(self) -> float:
        """A / N just now."""
        return self.sample_rate

    @property
    def active_of_all(self) -> int:
        """A, the number of classes that each group is scored against."""
        total = self.num_classes if self.shards is None else self.shards.num_classes
        return active_count(total, self.present_rate)

    @property
    def active_classes(self) -> int:
        """Those of them that are here: all, if classes are not split."""
        return self.active_of_all if self.shards is None else max(1, self.shards.share(self.active_of_all))

    def places_for(self, labels: Tensor, places: int | None = None) -> int:
        """places (None: ``active_classes``), or more if so many of labels [B] (-1: of another process) are here."""
        count = self.active_classes if places is None else places
        if self.shards is None or len(labels) <= count:
            return count
        return max(count, len(labels[labels >= 0].unique()))

    def groups_for(self, batch: int) -> int:
        """How many active sets a batch of that many samples is given, at most one a sample."""
        wanted = groups_by_rule(batch, self.active_of_all) if self.groups is None else self.groups
        return min(wanted, batch)

    def groups_of(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """x [B, d] (rows of length 1) -> the samples [G, b] of each group, as ``ActiveSets`` has them."""
        count = self.groups_for(len(x))
        if self.grouping == "similar":
            return similar_groups(x, count)
        return random_groups(len(x), count, generator, x.device)

    def _largest_group(self, batch: int) -> int:
        return -(-batch // self.groups_for(batch))

    def has_room_for_all(self, batch: int) -> bool:
        """Whether a group of so many samples' batch has a place for each of its labels, whatever they are."""
        return self._largest_group(batch) <= self.active_of_all

    def check_budget(self, labels: Tensor) -> None:
        """ValueError if labels [B] could put more distinct classes into one group than it has active classes."""
        if not self.has_room_for_all(len(labels)):
            distinct = min(self._largest_group(len(labels)), len(labels.unique()))
            if distinct > self.active_of_all:
                raise ValueError(
                    f"labels puts up to {distinct} distinct classes into a group, more than its "
                    f"{self.active_of_all} active classes; raise sample_rate or lower the batch size"
                )

    def prepare(self, weight: Tensor, generator: torch.Generator) -> None:
        """Upkeep of what is kept about the weights, once a step, before ``select``."""

    @abstractmethod
    def select(self, x: Tensor, labels: Tensor, weight: Tensor, generator: torch.Generator) -> ActiveSets:
        """x [B, d] (rows of length 1), labels [B], weight [N, d] -> active sets that partition the batch.

        Changes nothing but the generator. Where classes are split, weight has those here, and labels are -1 where a
        class is another process's: ``places_for`` and ``labels_here`` say what to make of it, and ``union`` asks them.
        """

    def take_part(self, x: Tensor) -> None:
        """Told by the head, instead of ``prepare`` and ``select``, of a process without classes: to take part in what
        ``select`` has all processes do together."""

    def observe(self, x: Tensor, active: ActiveSets, weight: Tensor, generator: torch.Generator) -> None:
        """Told by the head, in training, right after ``select``: what this batch is scored against.

        x [B, d] and weight [N, d] as ``select`` had them, active: what it gave.
        """

    def sync(self, weight: Tensor) -> None:
        """Bring what is kept about the weights up to date with rows that have moved."""

    def is_settled(self, weight: Tensor) -> bool:
        """Whether what is kept about the weights is up to date with them, and stays where it is in the next step."""
        return True

    def kept_tensors(self) -> list[Tensor]:
        """Those that outlive a step and are no buffers."""
        return []

    def changing(self, change: RowChange, rows: Tensor) -> Commit:
        """Told by the head: classes are to come, whose rows of the weight are rows [n, d], or to go.

        A selector that says nothing else here is bound anew, and forgets what it has learnt of classes. Nothing is to
        change before what this gives is called.
        """
        bound = copy.copy(self)
        # Dictionaries of its own: those of the buffers and of the parts that it has.
        bound.__dict__ = {name: copy.copy(v) if isinstance(v, dict) else v for name, v in self.__dict__.items()}
        bound.num_classes = None
        bound.bind(change.after, self.embedding_size, self.scale)
        bound.to(rows.device)
        return lambda: self.__dict__.update(bound.__dict__)

    def weight_replaced(self) -> None:
        """Told by the head: other weights were loaded than those that what is kept is about."""

    def union(
        self,
        samples: Tensor,
        candidates: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        places: int | None = None,
    ) -> ActiveSets:
        """The active sets of groups, samples [G, b]: their labels and candidates, cut or filled to A.

        candidates [B, k]: each sample's, best first, -1 where there is none; labels [B]. What stays free is filled at
        random. places: in A's stead, if there is room for the labels.
        """
        count, n = self.places_for(labels, places), self.num_classes
        fill = draw_fill(n, count, generator, len(samples), labels.device)
        labels = self.labels_here(labels, samples, fill, candidates)
        classes, targets = union_active(candidates, labels, samples, fill, count, n)
        return ActiveSets(samples, classes, targets)

    def labels_here(self, labels: Tensor, samples: Tensor, fill: Tensor, candidates: Tensor | None = None) -> Tensor:
        """labels [B] with others in place of -1, that cost samples [G, b] of a group no place in its set.

        One of the group's own labels; if it has none here, the class that it would take first: the nearest of
        candidates [B, k], or the first of fill [G, L].
        """
        if self.shards is None:
            return labels
        of_groups = torch.where(samples >= 0, labels[samples.clamp_min(0)], -1)  # [G, b]
        stand_in = fill[:, 0].to(labels.device)
        if candidates is not None and candidates.shape[1]:
            stand_in = _first_of(candidates[samples.clamp_min(0)], samples >= 0, stand_in)
        any_label = of_groups.amax(dim=1)
        stand_in = torch.where(any_label >= 0, any_label, stand_in).unsqueeze(1)
        places = torch.where(samples >= 0, samples, len(labels)).flatten()
        filled = torch.where(of_groups >= 0, of_groups, stand_in).flatten()
        return labels.new_zeros(len(labels) + 1).scatter(0, places, filled)[: len(labels)]

    def extra_repr(self) -> str:
        return f"sample_rate={self.sample_rate:g}, groups={self.groups}, grouping={self.grouping}"


class AllClasses(Selector):
    """Full softmax: every class, every time."""

    takes_all = True

    def select(self, x, labels, weight, generator):
        everything = torch.arange(self.num_classes, device=labels.device)
        batch = torch.arange(len(labels), device=labels.device)
        return ActiveSets(batch[None], everything[None], labels[None])


class RandomClasses(Selector):
    """The batch's own classes and uniformly random others, A in all.

    What PartialFC does (An et al., arXiv 2010.05222; CVPR 2022), for the whole batch: positives always in, no
    correction of logits. Ours: that it can be given groups of samples, with an active set each.
    """

    can_be_recorded = True

    def __init__(self, sample_rate: float = 0.1, groups: int | None = 1, grouping: str = "similar"):
        super().__init__(sample_rate, groups, grouping)

    def select(self, x, labels, weight, generator):
        return self.union(self.groups_of(x, generator), labels.new_empty(len(labels), 0), labels, generator)


def _first_of(candidates: Tensor, there: Tensor, otherwise: Tensor) -> Tensor:
    """candidates [G, b, k], -1 where there is none, there [G, b] -> the lowest class in the first column that has any
    [G]; of a group without candidates, ``otherwise`` [G]."""
    found = (candidates >= 0) & there.unsqueeze(2)
    column = found.any(dim=1).to(torch.uint8).argmax(dim=1)  # [G]
    where = column.view(-1, 1, 1).expand(-1, candidates.shape[1], 1)
    lowest = torch.where(found, candidates, torch.iinfo(torch.int64).max).gather(2, where).amin(dim=(1, 2))
    return torch.where(found.any(dim=(1, 2)), lowest, otherwise)
