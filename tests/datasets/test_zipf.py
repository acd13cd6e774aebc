"""The Zipf-like variant: counts by a loop, drawings kept or repeated, nothing else changed."""

from collections import Counter

import numpy as np
import pytest
import torch

from annsoftmax_ref.datasets.glyphs import GlyphData, ImageSet
from annsoftmax_ref.datasets.zipf import zipf_counts, zipf_subset


def drawings(labels, first=0):
    """Each drawing is known by its first two pixels."""
    labels = torch.tensor(labels)
    images = torch.zeros(len(labels), 32, 32, dtype=torch.uint8)
    number = torch.arange(first, first + len(labels))
    images[:, 0, 0], images[:, 0, 1] = (number % 256).byte(), (number // 256).byte()
    return ImageSet(images, labels, number)


def glyphs(num_classes=40, split="faces"):
    labels = [c for c in range(num_classes) for _ in range(3 + c % 5)]
    labels = labels[::2] + labels[1::2]  # not sorted by class
    names = [chr(65 + c) for c in range(num_classes)]
    test = drawings(list(range(num_classes)), first=1000)
    return GlyphData(drawings(labels), test, num_classes, names, names, ["one"], (), split)


@pytest.mark.parametrize("num_classes, total, exponent", [(1, 5, 1.0), (10, 10, 1.0), (50, 400, 0.5), (300, 1500, 1.7)])
def test_counts(num_classes, total, exponent):
    counts = zipf_counts(num_classes, total, exponent).tolist()
    assert sum(counts) == total and min(counts) >= 1
    assert counts == sorted(counts, reverse=True)
    # The largest scale by trying every one at which a count grows: scale = m * r^exponent.
    steps = sorted({m * r**exponent for r in range(1, num_classes + 1) for m in range(1, int(total / r**exponent) + 2)})

    def slow(scale):
        return [max(1, int(scale / r**exponent + 1e-9)) for r in range(1, num_classes + 1)]

    best = slow(max((s for s in steps if sum(slow(s)) <= total), default=0))
    left = total - sum(best)
    assert counts == [c + (r < left) for r, c in enumerate(best)]


def test_zipf_law_and_evenness():
    counts = zipf_counts(1000, 100_000, 1.0)
    for rank in (2, 5, 20, 100):
        assert counts[rank - 1] == pytest.approx(counts[0] / rank, rel=0.02)
    assert set(zipf_counts(7, 30, 0).tolist()) == {4, 5}
    assert zipf_counts(7, 30, 1000.0).tolist() == [24, 1, 1, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="total is 3; it should be at least num_classes, 4"):
        zipf_counts(4, 3, 1.0)


@pytest.mark.parametrize("exponent", [0, 0.5, 1.0, 2.0])
def test_drawings_are_kept_or_repeated_evenly(exponent):
    data = glyphs()
    made = zipf_subset(data, exponent, seed=3)
    assert type(made) is GlyphData and type(made.train) is ImageSet and len(made.train) == len(data.train)
    counts = torch.bincount(made.train.labels, minlength=data.num_classes)
    assert counts.sort(descending=True).values.tolist() == zipf_counts(40, len(data.train), exponent).tolist()
    have = torch.bincount(data.train.labels).tolist()
    times = Counter(made.train.faces.tolist())  # faces holds each drawing's number
    for label in range(data.num_classes):
        mine = [times[k] for k in (data.train.labels == label).nonzero()[:, 0].tolist()]
        assert len(mine) == have[label] and sum(mine) == counts[label] >= 1
        assert max(mine) - min(mine) <= 1
    number = made.train.faces
    assert torch.equal(made.train.labels, data.train.labels[number])  # label and picture stayed together
    assert torch.equal(made.train.images, data.train.images[number])


def test_the_rest_is_untouched_and_the_seed_decides():
    data = glyphs(split="embedding")
    before = data.train.labels.clone(), data.train.images.clone()
    a, b, c = zipf_subset(data), zipf_subset(data), zipf_subset(data, seed=1)
    assert torch.equal(a.train.faces, b.train.faces) and torch.equal(a.train.labels, b.train.labels)
    assert not torch.equal(torch.bincount(a.train.labels), torch.bincount(c.train.labels))
    assert torch.equal(data.train.labels, before[0]) and torch.equal(data.train.images, before[1])
    assert a.test is data.test and a.split == "embedding" and a.num_classes == 40 and a.members == data.members


def test_bad_input():
    data = glyphs(3)
    for error, exponents in ((ValueError, (-1, float("nan"), float("inf"))), (TypeError, ("1", True))):
        for exponent in exponents:
            with pytest.raises(error, match="exponent is .*; it should be a finite number of at least 0"):
                zipf_subset(data, exponent)
    for error, seeds in ((ValueError, (-1,)), (TypeError, (0.5, True, "0"))):
        for seed in seeds:
            with pytest.raises(error, match=f"seed is {seed!r}; it should be .*at least 0"):
                zipf_subset(data, seed=seed)
    assert torch.equal(zipf_subset(data, seed=np.int64(3)).train.labels, zipf_subset(data, seed=3).train.labels)
    with pytest.raises(TypeError, match="data is of type list"):
        zipf_subset([])
    data.train = data.train.select(data.train.labels != 1)
    with pytest.raises(ValueError, match="no training drawing of class 1"):
        zipf_subset(data)
