"""Accuracy by how often a class was seen in training: head, middle and tail, as work on uneven classes calls them.

Records have these names as fields. A distribution's head has nothing to do with the ``head`` that is trained, nor its
tail with the ``tail`` of ``NearestClasses``, classes that are drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NAMES = ("head", "middle", "tail")


class Bucket(NamedTuple):
    """``accuracy`` is over the bucket's ``tests`` test samples (each counts once); None if there are none."""

    accuracy: float | None
    classes: int
    train_samples: int
    tests: int


def accuracy_by_frequency(
    correct: Tensor, labels: Tensor, train_counts: Tensor, edges: str | Sequence[int] = "classes"
) -> dict[str, Bucket]:
    """correct [n] bool (top-1, top-5, ...), labels [n] int64, train_counts [N] int64 -> head, middle, tail.

    edges: how the N classes, from the most to the least frequent (ties: lower class first), are cut in three.
        "classes": thirds of the classes (the p-th of N, from 0, is in third floor(3 p / N)).
        "samples": thirds of the training samples; a class is where its first sample falls, so a class of more than
            a third of them can leave the next bucket empty.
        (low, high): by count; tail is below low, head above high, middle low to high. ImageNet-LT
            (Liu et al. 2019) has (20, 100): its many, medium and few shots.

    Raises TypeError or ValueError, in one sentence, for anything else.
    Derived in notebook 10, section "Ask who was seen often".
    """
    _check(correct, labels, train_counts)
    counts = train_counts.cpu()
    bucket = bucket_of(counts, edges)
    mine = bucket[labels.cpu()]
    correct = correct.cpu()
    result = {}
    for number, name in enumerate(NAMES):
        hits, members = correct[mine == number], bucket == number
        accuracy = int(hits.sum()) / len(hits) if len(hits) else None
        result[name] = Bucket(accuracy, int(members.sum()), int(counts[members].sum()), len(hits))
    return result


def bucket_of(counts: Tensor, edges: str | Sequence[int]) -> Tensor:
    """counts [N] int64 -> [N] int64, 0 head, 1 middle, 2 tail; ``edges`` as in ``accuracy_by_frequency``."""
    named = isinstance(edges, str) and edges in ("classes", "samples")
    if not named and not _is_range(edges):
        raise ValueError(
            f"edges is {edges!r}; it should be 'classes', 'samples' or two counts (low, high), low <= high"
        )
    if not named:
        low, high = edges
        return 1 + (counts < low).long() - (counts > high).long()
    order = counts.argsort(descending=True, stable=True)
    if edges == "classes":
        third = 3 * torch.arange(len(counts)) // len(counts)
    else:
        before = counts[order].cumsum(0) - counts[order]
        third = (3 * before // counts.sum().clamp(min=1)).clamp(max=2)  # classes never seen come last
    return torch.empty_like(order).scatter_(0, order, third)


def _is_range(edges) -> bool:
    numbers = isinstance(edges, Sequence) and all(isinstance(edge, (int, float)) for edge in edges)
    return numbers and len(edges) == 2 and edges[0] <= edges[1]


def _check(correct: Tensor, labels: Tensor, train_counts: Tensor) -> None:
    wanted = {
        "correct": (correct, torch.bool),
        "labels": (labels, torch.int64),
        "train_counts": (train_counts, torch.int64),
    }
    for name, (value, dtype) in wanted.items():
        if not isinstance(value, Tensor) or value.dtype != dtype:
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name} is of type {kind}; it should be a tensor of {dtype}")
        if value.dim() != 1:
            raise ValueError(f"{name} has shape {list(value.shape)}; it should have one dimension")
    if correct.shape != labels.shape:
        raise ValueError(f"correct has {len(correct)} entries; it should have {len(labels)}, as many as labels")
    if len(train_counts) == 0 or int(train_counts.min()) < 0:
        raise ValueError("train_counts is empty or holds negative numbers; it should have a count for each class")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(train_counts):
        wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise ValueError(f"labels holds {wrong}; labels should be from 0 to {len(train_counts) - 1}")
