"""Glyph pairs: one class an ordered pair of characters side by side, so up to tens of millions of classes.

Nothing is stored but the glyphs, each squeezed to half its width; a batch of pairs is put together when it is
asked for. Which pair a class is, and which drawings a sample shows, follow from the seed and the number alone.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.datasets.glyphs import GlyphData, ImageSet, load_glyphs


@dataclass
class Halves:
    """Drawings [n, 32, 16] uint8 sorted by character; those of character k are first[k] .. first[k] + count[k]."""

    images: Tensor
    first: Tensor
    count: Tensor

    @classmethod
    def of(cls, glyphs: ImageSet, num_characters: int) -> Halves:
        order = glyphs.labels.argsort(stable=True)
        images = glyphs.images[order]
        halved = ((images[:, :, 0::2].to(torch.int16) + images[:, :, 1::2]) // 2).to(torch.uint8)
        count = torch.bincount(glyphs.labels, minlength=num_characters)
        return cls(halved, count.cumsum(0) - count, count)

    def draw(self, characters: Tensor, random: Tensor) -> Tensor:
        """characters [b], random [b] int64 >= 0 -> one drawing each [b, 32, 16]."""
        return self.images[self.first[characters] + random % self.count[characters]]


@dataclass
class PairSet:
    """``len`` samples of ``num_classes`` classes, evenly spread; sample k is always the same picture."""

    halves: Halves
    num_characters: int
    num_classes: int
    length: int
    seed: int

    def __len__(self) -> int:
        return self.length

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """index [b] int64 in [0, len) -> images [b, 32, 32] uint8, labels [b] int64."""
        labels = index * self.num_classes // self.length
        left, right = pair_of(labels, self.num_characters, self.seed)
        halves = [
            self.halves.draw(characters, hashed(index, self.seed * 2 + side))
            for side, characters in enumerate((left, right))
        ]
        return torch.cat(halves, dim=2), labels


@dataclass
class PairData:
    """``train`` and ``test`` show the same classes, in faces of which test's are never in train."""

    train: PairSet
    test: PairSet
    num_classes: int
    characters: list[str]
    seed: int
    split: str = "faces"

    def name_of(self, label: int) -> str:
        """The two characters of a class."""
        left, right = pair_of(torch.tensor([label]), len(self.characters), self.seed)
        return self.characters[int(left)] + self.characters[int(right)]

    @property
    def class_names(self) -> list[str]:
        return [self.name_of(k) for k in range(self.num_classes)]

    def drawing_of(self, label: int) -> Tensor:
        """The first training drawing [32, 32] uint8 of the class."""
        first = -(-label * len(self.train) // self.num_classes)
        return self.train.batch(torch.tensor([first]))[0][0]


def load_pairs(
    num_classes: int,
    drawings_per_class: int = 6,
    test_size: int = 10_000,
    glyphs: GlyphData | None = None,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
    seed: int = 0,
) -> PairData:
    """``num_classes`` pairs of characters, drawn by ``seed`` from all ordered pairs, a pair of equals included.

    An epoch of training shows each class ``drawings_per_class`` times, in drawings that mix the training faces.
    ``test_size`` samples from the held-out faces are spread evenly over the classes. ``glyphs``: the drawings to
    pair (a face split of ``load_glyphs`` or ``load_fonts``), loaded if left out. Raises ValueError for more
    classes than there are pairs.
    """
    check_positive_int("num_classes", num_classes)
    check_positive_int("drawings_per_class", drawings_per_class)
    check_positive_int("test_size", test_size)
    if glyphs is None:
        glyphs = load_glyphs(cache_dir, progress)
    if glyphs.split != "faces":
        raise ValueError(f"glyphs have the split {glyphs.split!r}; pairs should be made of the split 'faces'")
    train, test, characters = shared_characters(glyphs)
    if num_classes > len(characters) ** 2:
        raise ValueError(
            f"num_classes is {num_classes}; it should be at most {len(characters) ** 2}, "
            f"the ordered pairs of {len(characters)} characters"
        )
    count = len(characters)
    return PairData(
        train=PairSet(Halves.of(train, count), count, num_classes, num_classes * drawings_per_class, seed),
        test=PairSet(Halves.of(test, count), count, num_classes, test_size, seed),
        num_classes=num_classes,
        characters=characters,
        seed=seed,
    )


def shared_characters(glyphs: GlyphData) -> tuple[ImageSet, ImageSet, list[str]]:
    """The parts of train and test with the characters that both have, numbered without gaps, and their names."""
    both = torch.isin(torch.arange(glyphs.num_classes), glyphs.test.labels).nonzero()[:, 0]
    number = torch.full((glyphs.num_classes,), -1)
    number[both] = torch.arange(len(both))
    parts = []
    for part in (glyphs.train, glyphs.test):
        kept = part.select(number[part.labels] >= 0)
        parts.append(ImageSet(kept.images, number[kept.labels], kept.faces))
    return parts[0], parts[1], [glyphs.class_names[k] for k in both.tolist()]


def pair_of(labels: Tensor, num_characters: int, seed: int) -> tuple[Tensor, Tensor]:
    """Class numbers [b] -> (left, right) characters [b]: a one-to-one map, scattered over all pairs.

    q = (a c + b) mod M^2 with a prime to M^2 is a permutation of the M^2 pairs; pair q is (q // M, q mod M).
    """
    total = num_characters**2
    rng = np.random.default_rng(seed)
    factor, offset = int(rng.integers(total // 3, total)) if total > 3 else 1, int(rng.integers(total))
    while math.gcd(factor, total) != 1:
        factor += 1
    pair = (labels * (factor % total) + offset) % total
    return pair // num_characters, pair % num_characters


def hashed(index: Tensor, key: int) -> Tensor:
    """index [b] -> numbers [b] int64 >= 0 that look random: the finalizer of SplitMix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = index.cpu().numpy().astype(np.uint64) + np.uint64((key * 2 + 1) * 0x9E3779B97F4A7C15 % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return torch.from_numpy(((z ^ (z >> np.uint64(31))) >> np.uint64(1)).astype(np.int64))
