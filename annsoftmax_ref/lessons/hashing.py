"""The picture and the exercises of notebook 03: hash tables of the classes, and what a lookup finds in them."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from matplotlib.figure import Figure

from annsoftmax_ref.experiments.figures import BLUE, GREEN, ORANGE, RED, new_figure
from annsoftmax_ref.lessons.exercises import Exercise
from annsoftmax_ref.lessons.pictures import DPI, SERIES
from annsoftmax_ref.lessons.trained import load_trained

QUERIES, NEAREST = 64, 10
MOST_BITS, MOST_TABLES = 14, 50
BIN = 4  # degrees


def turned(rows: np.ndarray, angle: float) -> np.ndarray:
    """rows [n, d], d even, all turned by the same rotation, each by exactly ``angle`` (radians); cosines stay.

    Every pair of coordinates is turned in its own plane.
    """
    even, odd = rows[:, ::2], rows[:, 1::2]
    pairs = np.cos(angle) * even - np.sin(angle) * odd, np.sin(angle) * even + np.cos(angle) * odd
    return np.stack(pairs, axis=2).reshape(rows.shape)


def first_tables(query_bits: np.ndarray, class_bits: np.ndarray) -> np.ndarray:
    """The first table in which each query and class have the same code, L where none.   -> [q, N]

    query_bits [L, K, q] and class_bits [L, K, N], bool.
    """
    powers = 1 << np.arange(query_bits.shape[1])
    asked, held = (np.einsum("lkn,k->ln", bits, powers) for bits in (query_bits, class_bits))
    first = np.full((query_bits.shape[2], class_bits.shape[2]), len(asked), dtype=np.int16)
    for table in reversed(range(len(asked))):
        first[asked[table][:, None] == held[table]] = table
    return first


def draw_tables(bits: int = 7, tables: int = 20) -> Figure:
    """What ``tables`` hash tables of ``bits`` bits find: by the angle, for 64 test drawings and all classes; and the
    part of the ten nearest classes that is found, with the part of all classes, for every number of tables."""
    degrees, first, nearest = _lookups(bits)
    figure, (by_angle, by_tables) = new_figure(10, 3.8, columns=2, dpi=DPI)
    near = np.take_along_axis(degrees, nearest, axis=1)
    low, high = np.percentile(near, [5, 95])
    by_angle.axvspan(low, high, color=GREEN, alpha=0.2)
    by_angle.text((low + high) / 2, 1, "the ten\nnearest", ha="center", va="bottom", fontsize=10)
    grid = np.linspace(0, 130, 131)
    by_angle.plot(grid, 100 * found_chance(np.radians(grid), bits, tables), color=BLUE, label="by the formula")
    by_angle.plot(*_measured(degrees, first < tables), "o", color=ORANGE, label="found among our classes")
    by_angle.set(xlabel="angle between drawing and class, degrees", ylabel="chance to be found, %", ylim=(-3, 125))
    found = _held(np.take_along_axis(first, nearest, axis=1))
    passed = _held(first)
    steps = np.arange(1, MOST_TABLES + 1)
    for values, colour, marker, line, name in (
        (found, GREEN, "D", "-", "of the ten nearest"),
        (passed, RED, "s", "--", "of all classes"),
    ):
        by_tables.plot(steps, values, line, color=colour, label=f"{name}: {values[tables - 1]:.1f} %")
        by_tables.plot(tables, values[tables - 1], marker, color=colour, markersize=9)
    by_tables.axvline(tables, color="black", linestyle=":")
    by_tables.set(xlabel=f"tables of {bits} bits (dotted: {tables})", ylabel="found, %", ylim=(-3, 125))
    for axes in (by_angle, by_tables):
        axes.set_yticks(range(0, 101, 20))
        axes.legend(loc="upper right", fontsize=10)
        axes.grid(alpha=0.3)
    return figure


def draw_recall(bits: tuple[int, ...] = (4, 6, 8, 10)) -> Figure:
    """The part of the ten nearest classes that is found, against the part of all classes that has to be looked at.

    A line for each number of bits, with marks at 1, 2, 5, 10, 20 and 50 tables; dotted: classes drawn at random.
    """
    if len(bits) > len(SERIES):
        raise ValueError(f"bits holds {len(bits)} numbers; it should hold at most {len(SERIES)}, to be told apart")
    figure, axes = new_figure(7, 4, dpi=DPI)
    marks = np.array([1, 2, 5, 10, 20, 50]) - 1
    for one, (colour, marker, line) in zip(bits, SERIES, strict=False):
        _, first, nearest = _lookups(one)
        found, passed = _held(np.take_along_axis(first, nearest, axis=1)), _held(first)
        axes.plot(passed[marks], found[marks], color=colour, marker=marker, linestyle=line, label=f"{one} bits")
    grid = np.geomspace(0.1, 100, 50)
    axes.plot(grid, grid, ":", color="gray", label="at random")
    axes.set(xscale="log", xlim=(0.1, 110), ylim=(-3, 105))
    axes.set_xlabel("classes found, % of all", fontsize=11)
    axes.set_ylabel("found of the ten nearest, %", fontsize=11)
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return figure


def _measured(degrees: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bins of the angle with 30 pairs or more: their middle, and the part that was found, in per cent."""
    bins = (degrees.ravel() / BIN).astype(int)
    pairs = np.bincount(bins)
    part = 100 * np.bincount(bins, weights=found.ravel()) / np.maximum(pairs, 1)
    enough = np.flatnonzero(pairs >= 30)
    return BIN * (enough + 0.5), part[enough]


def _held(first: np.ndarray) -> np.ndarray:
    """The part of the pairs whose first common table is among the first 1, 2, .. tables, in per cent [MOST_TABLES]."""
    return 100 * np.cumsum(np.bincount(first.ravel(), minlength=MOST_TABLES + 1))[:MOST_TABLES] / first.size


@cache
def _lookups(bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Angles [q, N] in degrees, the first common tables [q, N], the nearest classes but the own [q, 10]."""
    if not 1 <= bits <= MOST_BITS:
        raise ValueError(f"bits is {bits}; it should lie in 1..{MOST_BITS}")
    degrees, nearest, query_bits, class_bits = _scene()
    return degrees, first_tables(query_bits[:, :bits], class_bits[:, :bits]), nearest


@cache
def _scene():
    trained = load_trained()
    x, w, labels = trained.queries[:QUERIES], trained.prototypes, trained.query_labels[:QUERIES]
    planes = np.random.default_rng(0).standard_normal((MOST_TABLES * MOST_BITS, w.shape[1])).astype(np.float32)
    query_bits, class_bits = ((planes @ rows.T > 0).reshape(MOST_TABLES, MOST_BITS, len(rows)) for rows in (x, w))
    cosines = x @ w.T
    degrees = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    cosines[np.arange(QUERIES), labels] = -2
    return degrees, np.argsort(-cosines, axis=1)[:, :NEAREST], query_bits, class_bits


# ---------------------------------------------------------------------------------------- exercises


def found_chance(angle, bits, tables):
    """The chance that two vectors at ``angle`` (radians) share a bucket in at least one table."""
    return 1 - (1 - (1 - angle / math.pi) ** bits) ** tables


def tables_needed(angle, bits, chance):
    """The least number of tables in which two vectors at ``angle`` share a bucket with at least this chance."""
    return math.ceil(math.log(1 - chance) / math.log(1 - (1 - angle / math.pi) ** bits))


def angle_of_codes(a, b, bits):
    """The angle (radians) that two codes, whole numbers of ``bits`` bits, suggest."""
    return math.pi * (int(a) ^ int(b)).bit_count() / bits


EXERCISES = {
    "found_chance": Exercise(
        found_chance,
        [(math.pi / 2, 1, 1), (math.pi / 3, 6, 10), (0.0, 20, 1), (1.0, 8, 50)],
        hint="first the chance that all bits agree in one table, then that this fails in every table",
    ),
    "tables_needed": Exercise(
        tables_needed,
        [(math.pi / 3, 6, 0.9), (math.pi / 2, 3, 0.5), (0.9, 10, 0.99)],
        hint="solve 1 - (1 - p)^L >= chance for L; both logarithms are negative; round up",
    ),
    "angle_of_codes": Exercise(
        angle_of_codes,
        [(0b1010, 0b1010, 4), (0b1010, 0b0101, 4), (5, 6, 8), (0, 7, 64)],
        hint="the share of bits that differ is about angle / pi",
    ),
}
