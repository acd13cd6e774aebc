"""Pictures and exercises of notebook 04, "Turn weights into bits"."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from matplotlib.figure import Figure

from annsoftmax_ref import reference as ref
from annsoftmax_ref.experiments import figures
from annsoftmax_ref.lessons import pictures
from annsoftmax_ref.lessons.exercises import Exercise

WANTED = 50  # nearest classes that the search is to find
COUNTS = (50, 100, 200, 400, 800, 1600)  # candidates: the marks of the recall curves
SHOWN = 12


class SearchByCode:
    """queries [q, d] and prototypes [N, d], unit rows; the nearest classes by cosine and by the first bits of a code.

    Ranks are computed once for each number of bits, so that a picture can be drawn again quickly.
    """

    def __init__(self, queries: np.ndarray, prototypes: np.ndarray):
        self.queries, self.prototypes = queries, prototypes
        self._ranks: dict[int, np.ndarray] = {}

    @cached_property
    def nearest(self) -> np.ndarray:
        """[q, WANTED]: the classes of largest cosine, best first."""
        return np.argsort(-(self.queries @ self.prototypes.T), axis=1, kind="stable")[:, :WANTED]

    def ranks(self, bits: int) -> np.ndarray:
        """[q, WANTED]: where the code of the first ``bits`` numbers ranks each of ``nearest``, from 0; ties by id."""
        if bits not in self._ranks:
            codes = [ref.pack_bits(rows[:, :bits] > 0) for rows in (self.queries, self.prototypes)]
            # (distance, id) as one number: sorted, it has every class at its rank.
            keys = (ref.hamming(*codes) * len(self.prototypes) + np.arange(len(self.prototypes))).astype(np.int32)
            wanted = np.take_along_axis(keys, self.nearest, axis=1)
            keys.sort(axis=1)
            self._ranks[bits] = np.stack([np.searchsorted(*row) for row in zip(keys, wanted, strict=True)])
        return self._ranks[bits]

    def recall(self, bits: int, candidates: int) -> float:
        """The share of ``nearest`` among the first ``candidates`` by code: what re-ranking can still find."""
        return float((self.ranks(bits) < candidates).mean())


def code_stripes(images, codes: np.ndarray, names: list[str]) -> Figure:
    """A drawing a row, and right of it its code as black (1) and white (0) cells: codes [n, d] bool."""
    images, codes = np.asarray(images), np.asarray(codes, dtype=bool)
    if len(images) != len(codes) or len(names) != len(codes):
        raise ValueError(
            f"images, codes and names have {len(images)}, {len(codes)} and {len(names)} rows; they should agree"
        )
    step = pictures.TILE + pictures.GAP
    figure, axes = pictures.new_figure(9, 0.5 * len(codes))
    for row, (image, code) in enumerate(zip(images, codes, strict=True)):
        pictures.put_drawing(axes, image, 0, row * step)
        box = (1.5 * step, 1.5 * step + 5 * len(code), row * step + pictures.TILE, row * step)
        axes.imshow(~code[None], cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=box, aspect="auto")
    axes.set(xlim=(-4, 1.5 * step + 5 * codes.shape[1]), ylim=(len(codes) * step, -4), aspect="equal")
    pictures.hide_axes(axes)
    axes.set_yticks(np.arange(len(codes)) * step + pictures.TILE / 2, names)
    return figure


def draw_recall(search: SearchByCode, data, drawings, bits: int = 128, candidates: int = 200, query: int = 0) -> Figure:
    """Recall against candidates, with all bits and with the first ``bits``, and what one query finds with them.

    data: the glyphs, for the drawings of classes. drawings [q, 32, 32]: what the queries show.
    """
    most = search.prototypes.shape[1]
    if not 1 <= bits <= most:
        raise ValueError(f"bits is {bits}; it should be from 1 to {most}")
    if candidates < WANTED:
        raise ValueError(f"candidates is {candidates}; it should be at least the {WANTED} classes wanted")
    figure, (curve, row) = figures.new_figure(9, 4.6, rows=2, dpi=pictures.DPI, height_ratios=[3, 1.1])
    for number, (colour, marker, line) in ((most, pictures.SERIES[0]), (bits, pictures.SERIES[2])):
        values = [100 * search.recall(number, count) for count in COUNTS]
        curve.plot(COUNTS, values, color=colour, marker=marker, linestyle=line, label=f"{number} bits")
    here = search.recall(bits, candidates)
    curve.plot(candidates, 100 * here, color=figures.RED, marker="P", markersize=12)
    curve.axvline(candidates, color=figures.RED, linestyle=":")
    curve.set(xscale="log", ylim=(0, 103), ylabel=f"nearest {WANTED} found, %")
    curve.set_title(f"{bits} bits, {candidates} candidates re-ranked: {here:.0%} found", fontsize=pictures.SIZE)
    curve.set_xlabel("candidates taken by code and re-ranked", fontsize=pictures.SIZE)
    curve.set_xticks(COUNTS, [f"{count}" for count in COUNTS])
    curve.minorticks_off()
    curve.grid(alpha=0.3)
    curve.legend(loc="lower right")
    near = [data.drawing_of(label) for label in search.nearest[query, :SHOWN].tolist()]
    frames = ["in" if rank < candidates else "out" for rank in search.ranks(bits)[query, :SHOWN]]
    pictures.put_row(row, drawings[query], near, frames, SHOWN)
    row.set_title(f"a query, and its {SHOWN} nearest: ● among the candidates, × missed", fontsize=pictures.SIZE)
    return figure


# --- exercises ---------------------------------------------------------------------------------------------


def set_bits(number: int) -> int:
    count = 0
    while number:
        number &= number - 1  # takes the lowest set bit away
        count += 1
    return count


def expected_bits(cosine: float, bits: int) -> float:
    return bits * np.arccos(cosine) / np.pi


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    return np.mean([np.isin(row, got).mean() for got, row in zip(found, wanted, strict=True)])


EXERCISES = {
    "set_bits": Exercise(
        set_bits,
        [(0,), (1,), (0b1011,), (255,), (2**63 + 1,), (2**200 - 1,)],
        hint="n & (n - 1) is n without its lowest 1: count how often until nothing is left",
        without=("bin", "bit_count", "bitwise_count", "format", "unpackbits", "binary_repr"),
    ),
    "expected_bits": Exercise(
        expected_bits,
        [(1.0, 128), (0.0, 128), (0.5, 96), (-1.0, 64)],
        hint="the angle is the arc cosine, and each bit differs with the chance angle / pi",
    ),
    "recall": Exercise(
        recall,
        [
            (np.array([[3, 1, 2]]), np.array([[1, 2, 3]])),
            (np.array([[5, 1, 9], [4, 0, 7]]), np.array([[1, 2], [7, 4]])),
            (np.array([[8, 9]]), np.array([[1, 2, 3, 4]])),
            (np.array([[1, 2], [2, 1]]), np.array([[1, 9], [3, 4]])),
        ],
        hint="row by row: a class that another row found does not count; divide by how many are wanted",
    ),
}
