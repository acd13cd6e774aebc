"""The exercises of notebook 19: what a first day with one's own data asks for."""

from __future__ import annotations

import math

import numpy as np

from annsoftmax_ref.lessons.exercises import Exercise


def crossover(classes, full_ms, ann_ms) -> float:
    """The number of classes from which on ANN is the faster, by measurements [n], the number of classes ascending.

    Between two measurements log(ann / full) is taken to be linear in log(classes). The first crossing counts;
    classes[0] if ANN is the faster from the start, infinity if it never is.
    """
    behind = [math.log(ann / full) for full, ann in zip(full_ms, ann_ms, strict=True)]
    if behind[0] <= 0:
        return float(classes[0])
    for i in range(1, len(behind)):
        if behind[i] <= 0:
            part = behind[i - 1] / (behind[i - 1] - behind[i])
            return float(classes[i - 1] * (classes[i] / classes[i - 1]) ** part)
    return math.inf


def class_directions(x, labels, count: int) -> np.ndarray:
    """x [n, d] of any length, labels [n] from 0 to count - 1 -> each class's direction [count, d], of length 1: of the
    mean of its samples' directions."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    sums = np.zeros((count, x.shape[1]))
    np.add.at(sums, labels, x)
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def known_threshold(cosines, share: float) -> float:
    """cosines [n] of samples of known classes, each with its nearest class -> the largest of them that at least that
    share of all are not below."""
    ranked = np.sort(cosines)[::-1]
    return float(ranked[math.ceil(share * len(ranked) - 1e-9) - 1])


_RANDOM = np.random.default_rng(0)

EXERCISES = {
    "crossover": Exercise(
        crossover,
        [
            ([1000, 10_000], [1.0, 9.0], [4.0, 2.25]),
            ([5000, 20_000, 200_000], [8.0, 16.0, 150.0], [14.0, 11.0, 15.0]),
            ([20_000, 200_000], [16.0, 150.0], [11.0, 15.0]),
            ([100, 1000], [0.5, 1.0], [2.0, 3.0]),
        ],
        hint="log(ann / full) changes sign between two measurements; where does a straight line through both meet 0?",
    ),
    "class_directions": Exercise(
        class_directions,
        [
            (np.array([[3.0, 0.0], [0.0, 0.1]]), np.array([0, 0]), 1),
            (np.array([[1.0, 1.0], [0.0, 2.0], [-5.0, 0.0]]), np.array([1, 0, 1]), 2),
            (
                _RANDOM.normal(size=(8, 3)) * _RANDOM.uniform(0.1, 10, size=(8, 1)),
                np.array([2, 0, 1, 0, 2, 1, 1, 0]),
                3,
            ),
        ],
        hint="Only directions count: bring each sample to length 1 before the mean is taken, and the mean after it.",
    ),
    "known_threshold": Exercise(
        known_threshold,
        [
            (np.array([0.9, 0.2, 0.7, 0.8]), 0.75),
            (np.array([0.9, 0.2, 0.7, 0.8]), 0.8),
            (np.array([0.5, 0.5, 0.1]), 0.5),
            (np.linspace(-1, 1, 21), 0.95),
        ],
        hint="Sort from the largest down. How many have to stay, rounded up? The last of these is the threshold.",
    ),
}
