"""Selectors: which classes a batch is scored against.

A selector turns a batch into active sets, one for each group of samples. ``AllClasses`` is the full softmax,
``RandomClasses`` what PartialFC does, ``NearestClasses`` (``annsoftmax_ref.nearest``) ANN Softmax. A head owns one
selector and binds it to its number of classes; the selector never changes the weights, and what it chooses carries
no gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from annsoftmax_ref.active_sets import ActiveSet, active_count, draw_fill, union_active
from annsoftmax_ref.checks import check_rate


class Selector(nn.Module, ABC):
    """Base of the selectors. ``bind`` is called once by the head, the others for each training batch, in the
    order ``check_budget``, ``prepare``, ``select``, ``observe``."""

    sample_rate = 1.0
    groups = 1
    takes_all = False  # whether every class is in every active set
    num_classes: int | None = None  # None until it is bound

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

    @property
    def active_classes(self) -> int:
        """A, the number of classes that each group is scored against."""
        return active_count(self.num_classes, self.sample_rate)

    def groups_for(self, batch: int) -> int:
        """How many active sets a batch of that many samples is given."""
        return self.groups

    def check_budget(self, labels: Tensor) -> None:
        """ValueError if labels [B] could put more distinct classes into one group than it has active classes."""
        largest = -(-len(labels) // min(self.groups_for(len(labels)), len(labels)))
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

    def observe(self, x: Tensor, active: list[ActiveSet], weight: Tensor, generator: torch.Generator) -> None:
        """Told by the head, in training, right after ``select``: what this batch is scored against.

        x [B, d] and weight [N, d] as ``select`` had them, active: what it gave.
        """

    def sync(self, weight: Tensor) -> None:
        """Bring what is kept about the weights up to date with rows that have moved."""

    def weight_replaced(self) -> None:
        """Told by the head: other weights were loaded than those that what is kept is about."""

    def union(self, samples: Tensor, candidates: Tensor, labels: Tensor, generator: torch.Generator) -> ActiveSet:
        """The active set of a group, samples [b] of the batch: their labels and candidates [b, k], cut or filled to A.

        candidates: best first, -1 where there is none; labels [B] are the batch's. What stays free is filled at random.
        """
        fill = draw_fill(self.num_classes, self.active_classes, generator).to(labels.device)
        classes, targets = union_active(candidates, labels[samples], fill, self.active_classes, self.num_classes)
        return ActiveSet(samples, classes, targets)


class AllClasses(Selector):
    """Full softmax: every class, every time."""

    takes_all = True

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
        return [self.union(samples, labels.new_empty(len(labels), 0), labels, generator)]

    def extra_repr(self) -> str:
        return f"sample_rate={self.sample_rate:g}"
