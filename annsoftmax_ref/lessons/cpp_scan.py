"""Pictures and exercises of notebook 11, "Write the kernels in C++"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from annsoftmax_ref.experiments.figures import BLUE, GREEN, ORANGE, RED
from annsoftmax_ref.lessons import pictures
from annsoftmax_ref.lessons.cpp_exercises import CppExercise

WIDTHS = (1, 2, 4, 8, 16, 32)  # words of a code: 64 to 2,048 bits


@dataclass(frozen=True)
class Machine:
    """What one thread does in a nanosecond: bytes that it reads, and words whose bits it counts."""

    bytes_ns: float
    words_ns: float

    def floor(self, words: int, sharing: int = 1) -> tuple[float, float]:
        """The least nanoseconds a pair of a query and a code of ``words`` words: to read it, and to count its bits.

        sharing: queries for which a code is read once.
        """
        return 8 * words / self.bytes_ns / sharing, words / self.words_ns


def draw_ladder(times: Mapping[str, float], floors: Mapping[str, float]) -> Figure:
    """A bar for each version, nanoseconds a pair on a logarithmic axis, and a dotted line for each floor."""
    figure, axes = pictures.new_figure(8, 0.5 * len(times) + 1.2)
    places = np.arange(len(times))
    colours = [ORANGE if "torch" in name else BLUE for name in times]
    axes.barh(places, list(times.values()), color=colours)
    for place, value in zip(places, times.values(), strict=True):
        axes.text(value, place, f" {value:.3g}", va="center", fontsize=pictures.SIZE)
    for row, (name, floor) in enumerate(floors.items()):
        axes.axvline(floor, color=RED, linestyle=":", linewidth=2)
        axes.text(floor, -0.8 - 0.6 * row, f" {name}: {floor:.2g}", color=RED, fontsize=pictures.SIZE)
    axes.set_yticks(places, list(times))
    least = min(*floors.values(), *times.values())
    axes.set(xscale="log", xlabel="nanoseconds a pair", xlim=(least / 2, 4 * max(times.values())))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_ylim(len(times) - 0.4, -1 - 0.6 * len(floors))
    axes.grid(alpha=0.3, axis="x")
    return figure


def draw_roofline(machine: Machine, words: int = 2, sharing: int = 1) -> Figure:
    """The least time of a pair against the width of a code: reading it, counting it, and the larger of both."""
    if words not in WIDTHS:
        raise ValueError(f"words is {words}; it should be one of {', '.join(map(str, WIDTHS))}")
    if sharing < 1:
        raise ValueError(f"sharing is {sharing}; it should be at least 1")
    read, counted = np.array([machine.floor(width, sharing) for width in WIDTHS]).T
    bits = [64 * width for width in WIDTHS]
    figure, axes = pictures.new_figure(8, 4)
    axes.plot(bits, read, color=ORANGE, marker="s", linestyle="--", label="to read the code")
    axes.plot(bits, counted, color=GREEN, marker="D", linestyle="-.", label="to count its bits")
    axes.plot(bits, np.maximum(read, counted), color=BLUE, linewidth=5, alpha=0.3, label="the floor")
    here = machine.floor(words, sharing)
    axes.plot(64 * words, max(here), color=RED, marker="P", markersize=12)
    which = "reading" if here[0] > here[1] else "counting"
    axes.set_title(
        f"{64 * words} bits, queries that share a reading: {sharing}. {max(here):.2g} ns a pair, bound by {which}",
        fontsize=pictures.SIZE,
    )
    axes.set(xscale="log", yscale="log", xlabel="bits of a code", ylabel="nanoseconds a pair")
    axes.set_xticks(bits, [f"{b:,}" for b in bits])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return figure


# --- exercises ---------------------------------------------------------------------------------------------


def hamming_codes(query: np.ndarray, codes: np.ndarray, n: int, words: int) -> tuple[np.ndarray]:
    return (np.bitwise_count((query ^ codes).view(np.uint64)).sum(axis=1, dtype=np.int64),)


def word_major(codes: np.ndarray, n: int, words: int, capacity: int) -> tuple[np.ndarray]:
    turned = np.zeros((words, capacity), dtype=np.int64)
    turned[:, :n] = codes.T
    return (turned,)


def bound_of(distances: np.ndarray, n: int, k: int, most: int) -> tuple[np.ndarray]:
    return (np.array([np.sort(distances)[k - 1] if k <= n else most]),)


def nearest_ids(distances: np.ndarray, n: int, k: int, most: int) -> tuple[np.ndarray]:
    ids = np.full(k, -1)
    found = np.argsort(distances, kind="stable")[:k]
    ids[: len(found)] = found
    return (ids,)


def _codes(n: int, words: int, seed: int) -> np.ndarray:
    """Random words, of which every other is negative as an int64."""
    return np.random.default_rng(seed).integers(-(2**63), 2**63, size=(n, words))


def _code_cases(sizes, **more) -> list[dict]:
    """A case for each (n, words)."""
    return [
        {"codes": _codes(n, words, seed), "n": n, "words": words} | {key: f(n) for key, f in more.items()}
        for seed, (n, words) in enumerate(sizes)
    ]


def _distance_cases(*triples) -> list[dict]:
    return [
        {"distances": np.array(distances, dtype=np.int64), "n": len(distances), "k": k, "most": most}
        for distances, k, most in triples
    ]


_SPREAD = np.random.default_rng(9).binomial(128, 0.5, 1000).tolist()

CPP_EXERCISES = {
    "hamming_codes": CppExercise(
        ("query", "codes", "n", "words", "distances"),
        ("distances",),
        hamming_codes,
        [
            case | {"query": _codes(1, case["words"], 99)[0]}
            for case in _code_cases([(1, 1), (3, 2), (9, 3), (1000, 2), (7, 32), (0, 2)])
        ]
        # All bits differ: 2,048 of them, more than a byte counts.
        + [{"query": np.zeros(32, dtype=np.int64), "codes": np.full((2, 32), -1), "n": 2, "words": 32}],
        [
            "word w of code i lies at codes[i * words + w], and that of the query at query[w]",
            "__builtin_popcount takes 32 bits, and drops the rest without a word; __builtin_popcountll takes 64",
            "start each sum at 0, and write distances[i] once, when all words are counted",
        ],
    ),
    "word_major": CppExercise(
        ("codes", "n", "words", "capacity", "out"),
        ("out",),
        word_major,
        _code_cases([(1, 1), (4, 2), (9, 3)], capacity=lambda n: n)
        + _code_cases([(5, 2), (17, 3), (0, 2), (1000, 2)], capacity=lambda n: (n + 8) // 8 * 8),
        [
            "word w of slot i goes to out[w * capacity + i]",
            "slots from n to capacity belong to no code: write 0 there, for every word",
        ],
    ),
    "bound_of": CppExercise(
        ("distances", "n", "k", "most", "bound"),
        ("bound",),
        bound_of,
        _distance_cases(
            ([5, 3, 9, 3], 1, 16),
            ([5, 3, 9, 3], 2, 16),
            ([5, 3, 9, 3], 3, 16),
            ([16, 16, 16], 3, 16),
            ([0, 0, 16], 2, 16),
            ([5, 3], 3, 16),
            ([], 1, 16),
            (_SPREAD, 100, 128),
            (_SPREAD, 1000, 128),
            ([4096] * 5 + [0], 2, 4096),
        ),
        [
            "a distance is one of 0, 1, ..., most: that is most + 1 counters",
            "add the counters up from 0 on; stop at the first distance where the sum is at least k",
            "where n is less than k the sum never gets there: the answer is most",
        ],
    ),
    "nearest_ids": CppExercise(
        ("distances", "n", "k", "most", "ids"),
        ("ids",),
        nearest_ids,
        _distance_cases(
            ([5, 3, 9, 3], 2, 16),
            ([5, 3, 9, 3], 3, 16),
            ([7, 7, 7, 7], 2, 16),
            ([16, 0, 16, 0], 4, 16),
            ([5, 3], 4, 16),
            ([], 2, 16),
            (_SPREAD, 100, 128),
            (_SPREAD, 1000, 128),
            ([4096, 0, 4096], 3, 4096),
        ),
        [
            "count how many codes have each distance, as for the bound",
            "the sum of the counters below distance t is the place of the first code of distance t in the answer",
            "go through the codes in order, put each at its distance's place, and move that place on by one: so equal "
            "distances stay in the order of their ids; places from k on are not written",
            "where there are fewer than k codes, the places that are left get -1",
        ],
    ),
}
