"""One example small enough for paper, the same in every notebook: 12 classes, 4 samples, 8 numbers a row.

The numbers are made up, whole and without zeros, so that every code is plain to see. They were chosen for what they
show: ó, which has the accent of é, is its nearest other class and yet has its row in another list.
"""

from __future__ import annotations

import numpy as np

from annsoftmax_ref import reference as ref

NAMES = ("e", "é", "è", "ê", "o", "ó", "ò", "ô", "→", "⇒", "↗", "↠")
ROWS = np.array(  # [12, 8], a row for each class
    [
        [-1, -1, -3, -1, 3, 2, -2, -1],
        [-1, 1, -2, -1, 2, 3, -1, 1],
        [-1, -1, -2, -2, 3, -1, -1, 1],
        [-1, -1, -1, -2, 3, 1, 1, 2],
        [1, 2, -1, 2, 1, -1, 1, -1],
        [-1, 3, -3, 1, 3, -1, 1, -1],
        [1, 2, -3, 3, -1, -1, 3, 1],
        [1, 1, -1, 2, 1, -1, 2, 1],
        [1, -2, 1, 2, 1, -2, 2, 3],
        [1, -2, 1, 1, -1, -3, 1, 2],
        [2, 1, 1, 3, -1, -2, -1, 2],
        [1, 1, 1, 3, -1, -1, 2, 3],
    ]
)
SAMPLES = np.array(  # [4, 8], embeddings
    [[-1, 2, -3, 1, 3, 2, -1, 2], [1, -2, 1, 2, 1, -2, 2, 2], [-1, 1, -2, -2, 3, 1, 2, 1], [1, 1, 1, 1, 2, 1, 2, 1]]
)
LABELS = np.array([1, 8, 3, 7])  # é → ê ô
N, B, D = len(ROWS), len(SAMPLES), ROWS.shape[1]
ACTIVE = 4  # places in an active set: a third of the classes
SCALE = 8.0
W, X = ref.normalize(ROWS.astype(float)), ref.normalize(SAMPLES.astype(float))  # of length 1


def named(classes) -> str:
    """Class numbers -> their characters: [1, 5] -> "é ó". A -1, nobody, is left out."""
    return " ".join(NAMES[c] for c in np.ravel(classes) if c >= 0)


def bits(rows) -> list[str]:
    """rows [n, d] -> their codes as text, "00100011": 1 where a number is above zero."""
    return ["".join("01"[int(number > 0)] for number in row) for row in rows]


def lists(rounds: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Three lists by k-means from the rows of e, o and →: assignment [12], centroids [3, 8]."""
    centroids = ref.spherical_kmeans(W, 3, rounds, init=W[[0, 4, 8]])
    return ref.assign(W, centroids), centroids


def candidates(count: int = 6) -> np.ndarray:
    """For each sample its ``count`` nearest other classes, nearest first [4, count], found by scoring all."""
    cosines = X @ W.T
    cosines[np.arange(B), LABELS] = -2
    return np.argsort(-cosines, axis=1, kind="stable")[:, :count]


def active_sets(groups) -> list[np.ndarray]:
    """For each group of samples its ``ACTIVE`` classes, ascending: the labels, then candidates by rank."""
    found, nobody = candidates(), np.arange(0)
    return [ref.union_active(found[group], LABELS[group], nobody, ACTIVE, N)[0] for group in groups]


def table(columns: dict[str, object], digits: int = 2) -> str:
    """Columns of equal length under their names, ready to print; numbers that are not whole are rounded."""
    text = {name: [_word(value, digits) for value in np.asarray(values).tolist()] for name, values in columns.items()}
    widths = {name: max(len(name), *map(len, words)) for name, words in text.items()}
    lines = [[name for name in text], *zip(*text.values(), strict=True)]
    return "\n".join(
        "  ".join(word.rjust(width) for word, width in zip(line, widths.values(), strict=True)) for line in lines
    )


def _word(value, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}" if isinstance(value, float) else str(value)  # 0.00, never -0.00
