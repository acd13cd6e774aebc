"""Selectors: which classes a batch is scored against.

A selector turns a batch into active sets, one for each group of samples. ``AllClasses`` is the full softmax,
``RandomClasses`` what PartialFC does, ``NearestClasses`` ANN Softmax. A head owns one selector and binds it
to its number of classes; the selector never changes the weights, and what it chooses carries no gradient.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from annsoftmax_ref import rows as weight_rows
from annsoftmax_ref.active_sets import ActiveSet, active_count, draw_fill, union_active
from annsoftmax_ref.checks import check_positive_int, check_rate
from annsoftmax_ref.grouping import random_groups, similarity_groups
from annsoftmax_ref.index import IVFBinaryIndex


def default_nlist(num_classes: int) -> int:
    """About sqrt(N), a power of two: probing the centroids and scanning the lists then cost alike."""
    return min(num_classes, 2 ** round(math.log2(math.sqrt(num_classes))))


class Selector(nn.Module, ABC):
    """Base of the selectors. ``bind`` is called once by the head, the others for each training batch, in the
    order ``check_budget``, ``prepare``, ``select``, ``rows_moved``."""

    sample_rate = 1.0
    groups = 1

    def bind(self, num_classes: int, embedding_size: int, scale: float = 1.0) -> None:
        """scale: what a cosine is multiplied by to be a logit."""
        self.num_classes, self.embedding_size, self.scale = num_classes, embedding_size, scale

    @property
    def active_classes(self) -> int:
        """A, the number of classes that each group is scored against."""
        return active_count(self.num_classes, self.sample_rate)

    def check_budget(self, labels: Tensor) -> None:
        """ValueError if labels [B] could put more distinct classes into one group than it has active classes."""
        largest = -(-len(labels) // min(self.groups, len(labels)))
        if largest > self.active_classes:
            distinct = min(largest, len(labels.unique()))
            if distinct > self.active_classes:
                raise ValueError(
                    f"labels puts up to {distinct} distinct classes into a group, more than its "
                    f"{self.active_classes} active classes; raise sample_rate or lower the batch size"
                )

    def prepare(self, weight: Tensor, generator: torch.Generator) -> None:
        """Upkeep of what is kept about the weights, once a step, before ``select``."""

    @abstractmethod
    def select(self, x: Tensor, labels: Tensor, weight: Tensor, generator: torch.Generator) -> list[ActiveSet]:
        """x [B, d] (rows of length 1), labels [B], weight [N, d] -> active sets that partition the batch.

        Changes nothing but the generator.
        """

    def rows_moved(self, ids: Tensor) -> None:
        """Told by the head: the optimizer is about to move rows ids [n]."""

    def sync(self, weight: Tensor) -> None:
        """Bring what is kept about the weights up to date with rows that have moved."""

    def _union(self, samples: Tensor, candidates: Tensor, labels: Tensor, generator: torch.Generator) -> ActiveSet:
        fill = draw_fill(self.num_classes, self.active_classes, generator).to(labels.device)
        classes, targets = union_active(candidates, labels[samples], fill, self.active_classes, self.num_classes)
        return ActiveSet(samples, classes, targets)


class AllClasses(Selector):
    """Full softmax: every class, every time."""

    def select(self, x, labels, weight, generator):
        everything = torch.arange(self.num_classes, device=labels.device)
        return [ActiveSet(torch.arange(len(labels), device=labels.device), everything, labels)]


class RandomClasses(Selector):
    """The batch's own classes and uniformly random others, A in all, for the whole batch.

    What PartialFC does (An et al., arXiv 2010.05222; CVPR 2022): positives always in, no correction of logits.
    """

    def __init__(self, sample_rate: float = 0.1):
        super().__init__()
        self.sample_rate = check_rate(sample_rate)

    def select(self, x, labels, weight, generator):
        samples = torch.arange(len(labels), device=labels.device)
        return [self._union(samples, labels.new_empty(len(labels), 0), labels, generator)]

    def extra_repr(self) -> str:
        return f"sample_rate={self.sample_rate:g}"


class NearestClasses(Selector):
    """ANN Softmax (Zhao et al., PVLDB 2021): the classes nearest to each sample, found by IVFBinaryIndex.

    From the paper: binary quantization with an inverted file, the index kept in step with training, one active
    set for each group of samples. Ours: every number below, signs of the rows themselves as codes, re-ranking,
    and the upkeep (codes of moved rows before the next search; lists and centroids a slice of rows at a time).

    sample_rate: A / N, for each group. groups: active sets per batch. grouping: "random" or "similar".
    nlist, nprobe: lists, and how many of them a sample probes. candidates: classes a sample may bring in.
    rerank: order candidates by exact cosine rather than Hamming distance.
    refresh_steps: every row's list is looked at once in so many steps (default: 50, and more above 50,000 classes).
    rotate, centre, asymmetric: see IVFBinaryIndex. None takes a default from the sizes.
    """

    def __init__(
        self,
        sample_rate: float = 0.1,
        groups: int = 8,
        grouping: str = "random",
        nlist: int | None = None,
        nprobe: int | None = None,
        candidates: int | None = None,
        rerank: bool = True,
        refresh_steps: int | None = None,
        rotate: bool = False,
        centre: bool = False,
        asymmetric: bool = False,
    ):
        super().__init__()
        self.sample_rate = check_rate(sample_rate)
        self.groups = check_positive_int("groups", groups)
        if grouping not in ("random", "similar"):
            raise ValueError(f"grouping is {grouping!r}; it should be 'random' or 'similar'")
        self.grouping = grouping
        for name, value in (
            ("nlist", nlist),
            ("nprobe", nprobe),
            ("candidates", candidates),
            ("refresh_steps", refresh_steps),
        ):
            if value is not None:
                check_positive_int(name, value)
        self.nlist, self.nprobe, self.candidates = nlist, nprobe, candidates
        self.rerank = rerank
        self.refresh_steps = refresh_steps
        self.rotate, self.centre, self.asymmetric = rotate, centre, asymmetric
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))  # first row of the next slice
        self._moved: list[Tensor] = []

    @property
    def plain_signs(self) -> bool:
        """Whether a row's code is just the signs of its numbers."""
        return not (self.rotate or self.centre)

    def bind(self, num_classes: int, embedding_size: int, scale: float = 1.0) -> None:
        super().bind(num_classes, embedding_size, scale)
        self.nlist = self.nlist or default_nlist(num_classes)
        self.nprobe = self.nprobe or min(self.nlist, math.ceil(2 * math.sqrt(self.nlist)))  # 16 of 64, 64 of 1,024
        # Looking at 1,000 rows a step costs next to nothing; fewer classes are gone through in 50 steps.
        self.refresh_steps = self.refresh_steps or max(50, -(-num_classes // 1000))
        if self.nprobe > self.nlist:
            raise ValueError(f"nprobe is {self.nprobe}; it should be at most nlist, {self.nlist}")
        self.index = IVFBinaryIndex(num_classes, embedding_size, self.nlist, self.rotate, self.centre, self.asymmetric)

    def prepare(self, weight: Tensor, generator: torch.Generator) -> None:
        weight.wants_codes = self.plain_signs
        if not self.index.trained:
            self.index.train_lists(weight, generator)
            self._moved.clear()
        self.sync(weight)
        self._upkeep(weight)

    def select(self, x, labels, weight, generator):
        if self.grouping == "random":
            groups = [g.to(labels.device) for g in random_groups(len(labels), self.groups, generator)]
        else:
            groups = similarity_groups(x, self.groups)
        k = self.candidates_per_sample(max(len(g) for g in groups))
        # The order of candidates decides only which of them are cut: where all find room, it is not asked for.
        cut = k * max(len(g) for g in groups) > self.active_classes
        found, _ = self.index.search(x, weight, k, self.nprobe, self.rerank and cut)
        return [self._union(samples, found[samples], labels, generator) for samples in groups]

    def candidates_per_sample(self, group_size: int) -> int:
        """The sample's share of the active set, and at least 64."""
        share = self.active_classes // group_size
        return min(self.candidates or max(64, share), self.num_classes)

    def rows_moved(self, ids: Tensor) -> None:
        self._moved.append(ids)

    def sync(self, weight: Tensor) -> None:
        """Rewrite the codes of the rows that moved since the last call."""
        if not self._moved:
            return
        self.index.clock += 1
        ids = self._moved[0] if len(self._moved) == 1 else torch.cat(self._moved).unique()
        self._moved.clear()
        # The optimizer's kernel makes the sign codes of the rows that it moves on the way.
        made_for, codes, version = getattr(weight, "row_codes", None) or (None, None, None)
        if self.plain_signs and version == weight._version and torch.equal(made_for, ids):
            self.index.write_codes(ids, codes)
        else:
            self.index.update_rows(weight, ids)

    def _upkeep(self, weight: Tensor) -> None:
        first = int(self.cursor)
        last = min(self.num_classes, first + -(-self.num_classes // self.refresh_steps))
        ids = torch.arange(first, last, device=weight.device)
        weight_rows.catch_up(weight, ids)
        self.index.refresh(weight, ids)
        self.cursor.fill_(last % self.num_classes)

    def extra_repr(self) -> str:
        return (
            f"sample_rate={self.sample_rate:g}, groups={self.groups}, grouping={self.grouping}, "
            f"nlist={self.nlist}, nprobe={self.nprobe}, rerank={self.rerank}"
        )
