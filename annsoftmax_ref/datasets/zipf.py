"""Uneven classes: a drawn data set whose class sizes follow Zipf's law, as real ones about do."""

from __future__ import annotations

import math
from dataclasses import replace
from numbers import Real

import numpy as np
import torch

from annsoftmax_ref.checks import check_from_0
from annsoftmax_ref.datasets.glyphs import GlyphData


def zipf_subset(data: GlyphData, exponent: float = 1.0, seed: int = 0) -> GlyphData:
    """The same data with as many training drawings in total, but the r-th class having about r^-exponent as many.

    Which class is the r-th is drawn by ``seed``. A class that should have fewer drawings than it has keeps some,
    drawn by ``seed``; one that should have more repeats its own, each as often as the others or once more (in
    training the augmentation makes them differ). Every class keeps at least one. ``test`` is left as it is.
    exponent 0 makes all classes even. The counts: ``torch.bincount(result.train.labels)``.
    Raises TypeError for data without stored drawings and for arguments that are no numbers, ValueError for numbers out
    of range and a class without any drawing.
    """
    if not isinstance(data, GlyphData):
        raise TypeError(f"data is of type {type(data).__name__}; it should be GlyphData (load_glyphs or load_fonts)")
    if isinstance(exponent, bool) or not isinstance(exponent, Real):
        raise TypeError(f"exponent is {exponent!r}; it should be a finite number of at least 0")
    if not 0 <= exponent < math.inf:
        raise ValueError(f"exponent is {exponent}; it should be a finite number of at least 0")
    seed = check_from_0("seed", seed)
    labels = data.train.labels.numpy()
    have = np.bincount(labels, minlength=data.num_classes)
    if not have.all():
        raise ValueError(f"data has no training drawing of class {int(have.argmin())}; every class should have one")
    rng = np.random.default_rng(seed)
    counts = np.empty(data.num_classes, np.int64)
    counts[rng.permutation(data.num_classes)] = zipf_counts(data.num_classes, len(labels), exponent)
    # A class's drawings in an order of its own, taken round and round until its count is reached.
    order = np.lexsort((rng.random(len(labels)), labels))
    slot_class = np.repeat(np.arange(data.num_classes), counts)
    turn = np.arange(counts.sum()) - (counts.cumsum() - counts)[slot_class]
    index = order[(have.cumsum() - have)[slot_class] + turn % have[slot_class]]
    return replace(data, train=data.train.select(torch.from_numpy(index)))


def zipf_counts(num_classes: int, total: int, exponent: float) -> np.ndarray:
    """[num_classes] int64, not growing, each at least 1, of sum ``total``: max(1, floor(scale * r^-exponent)).

    ``scale`` is the largest that does not exceed the total; what is then left goes one each to the first classes.
    """
    if total < num_classes:
        raise ValueError(f"total is {total}; it should be at least num_classes, {num_classes}")
    share = np.arange(1, num_classes + 1, dtype=np.float64) ** -float(exponent)

    def counts(scale: float) -> np.ndarray:
        return np.maximum(1, np.floor(scale * share)).astype(np.int64)

    low, high = 0.0, total + 1.0
    for _ in range(100):  # halved until neighbouring floats
        middle = (low + high) / 2
        low, high = (middle, high) if counts(middle).sum() <= total else (low, middle)
    result = counts(low)
    left = total - int(result.sum())
    result[:left] += 1
    return result
