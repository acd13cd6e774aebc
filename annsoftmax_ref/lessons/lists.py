"""Pictures and exercises of notebook 05, "Search only some lists"."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from annsoftmax_ref import reference as ref
from annsoftmax_ref.experiments import figures
from annsoftmax_ref.lessons import pictures
from annsoftmax_ref.lessons.exercises import Exercise

WANTED = 50  # nearest classes that the search is to find
SHOWN = 12  # drawings in a row


class SearchByList:
    """queries [q, d] and prototypes [N, d], unit rows; the prototypes in ``nlist`` lists made by spherical k-means.

    centroids [nlist, d]; assignment [N]; sizes [nlist]; order [q, nlist]: the lists of a query, nearest first;
    wanted [q, WANTED]: its nearest classes; places [q, WANTED]: where in ``order`` the list of each of them stands.
    """

    def __init__(self, queries: np.ndarray, prototypes: np.ndarray, nlist: int, iterations: int = 10, seed: int = 0):
        self.queries, self.prototypes, self.nlist = queries, prototypes, nlist
        self.centroids = ref.spherical_kmeans(prototypes, nlist, iterations, np.random.default_rng(seed))
        self.assignment = ref.assign(prototypes, self.centroids)
        self.sizes = np.bincount(self.assignment, minlength=nlist)
        self.order = np.argsort(-(queries @ self.centroids.T), axis=1, kind="stable")
        self.wanted = np.argsort(-(queries @ prototypes.T), axis=1, kind="stable")[:, :WANTED]
        self.places = np.take_along_axis(np.argsort(self.order, axis=1), self.assignment[self.wanted], axis=1)

    def recall(self, nprobe: int) -> float:
        """The share of ``wanted`` in the ``nprobe`` nearest lists: what an exact scan of these finds."""
        return float((self.places < nprobe).mean())

    def scanned(self, nprobe: int) -> float:
        """The share of all classes that stand in the ``nprobe`` nearest lists, on average."""
        return float(self.sizes[self.order[:, :nprobe]].sum(axis=1).mean() / len(self.prototypes))


def draw_parts(searches: dict[int, SearchByList], nlist: int = 64, nprobe: int = 16) -> Figure:
    """Recall against the part of the classes scanned, a line for each number of lists; one point is marked."""
    if nlist not in searches:
        raise ValueError(f"nlist is {nlist}; it should be one of {', '.join(map(str, searches))}")
    if not 1 <= nprobe <= nlist:
        raise ValueError(f"nprobe is {nprobe}; it should be from 1 to nlist, {nlist}")
    figure, axes = pictures.new_figure(8, 4)
    for search, (colour, marker, line) in zip(searches.values(), pictures.SERIES, strict=False):
        probes = [2**p for p in range(search.nlist.bit_length()) if 2**p <= search.nlist]
        parts, found = ([100 * f(p) for p in probes] for f in (search.scanned, search.recall))
        axes.plot(parts, found, color=colour, marker=marker, linestyle=line, label=f"{search.nlist} lists")
    part, found = (100 * f(nprobe) for f in (searches[nlist].scanned, searches[nlist].recall))
    axes.plot(part, found, color=figures.RED, marker="P", markersize=12)
    axes.set_title(f"{nprobe} of {nlist} lists: {part:.1f}% scanned, {found:.0f}% found", fontsize=pictures.SIZE)
    axes.set(xscale="log", ylim=(0, 103), xlabel="classes scanned, %", ylabel=f"nearest {WANTED} found, %")
    axes.set_xticks([0.5, 1, 2, 5, 10, 20, 50, 100], ["0.5", "1", "2", "5", "10", "20", "50", "100"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def draw_scan(search: SearchByList, data, drawings, labels, probes: int = 3, query: int = 0) -> Figure:
    """One query after the scan of its ``probes`` nearest lists: what was found, the last list, and what is wanted.

    data: the glyphs, for the drawings of classes. drawings [q, 32, 32] and labels [q]: the queries.
    """
    if not 1 <= probes <= search.nlist:
        raise ValueError(f"probes is {probes}; it should be from 1 to nlist, {search.nlist}")
    figure, panels = figures.new_figure(9, 5.2, rows=3, dpi=pictures.DPI, height_ratios=[3, 1.1, 1.1])
    curve, row_list, row_wanted = panels
    order, places, wanted = search.order[query], search.places[query], search.wanted[query]
    steps = np.arange(1, search.nlist + 1)
    found = [(places < p).sum() for p in steps]
    curve.step(steps, found, where="post", color=figures.BLUE)
    curve.plot(probes, found[probes - 1], color=figures.RED, marker="P", markersize=12)
    scanned = search.sizes[order[:probes]].sum()
    curve.set_title(
        f"{probes} of {search.nlist} lists, {scanned:,} of {len(search.prototypes):,} classes scanned: "
        f"{found[probes - 1]} of the nearest {WANTED} found",
        fontsize=pictures.SIZE,
    )
    curve.set(xlim=(0, search.nlist + 1), ylim=(0, WANTED + 2))
    curve.set_xlabel("lists scanned, the nearest first", fontsize=pictures.SIZE)
    curve.set_ylabel(f"of the nearest {WANTED}", fontsize=pictures.SIZE)
    curve.grid(alpha=0.3)

    def frame(label: int) -> str:
        return "own" if label == labels[query] else "in" if label in wanted else ""

    members = np.flatnonzero(search.assignment == order[probes - 1])
    members = members[np.argsort(-(search.prototypes[members] @ search.queries[query]), kind="stable")]
    shown = members[:SHOWN].tolist()
    pictures.put_row(row_list, drawings[query], map(data.drawing_of, shown), map(frame, shown), SHOWN)
    row_list.set_title(
        f"the query, and list number {probes}: the nearest of its {len(members)} members (● wanted, ✓ the right class)",
        fontsize=pictures.SIZE,
    )
    seen = ["in" if place < probes else "out" for place in places[:SHOWN]]
    pictures.put_row(row_wanted, drawings[query], map(data.drawing_of, wanted[:SHOWN].tolist()), seen, SHOWN)
    row_wanted.set_title(f"the query, and its {SHOWN} nearest: ● found so far, × not yet", fontsize=pictures.SIZE)
    return figure


# --- exercises ---------------------------------------------------------------------------------------------


def nearest_lists(query: np.ndarray, centroids: np.ndarray, nprobe: int) -> np.ndarray:
    return np.argsort(-(centroids @ query), kind="stable")[:nprobe]


def best_nlist(num_classes: int, nprobe: int) -> float:
    return np.sqrt(num_classes * nprobe)  # where the derivative of nlist + nprobe N / nlist is 0


def move_centroid(centroid: np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
    moved = centroid + len(rows) / size * (rows.mean(axis=0) - centroid)
    return moved / np.linalg.norm(moved)


_CENTROIDS = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])

EXERCISES = {
    "nearest_lists": Exercise(
        nearest_lists,
        [
            (np.array([1.0, 0.1]), _CENTROIDS, 1),
            (np.array([0.0, 1.0]), _CENTROIDS, 2),
            (_CENTROIDS[3], _CENTROIDS, 4),
            (np.array([1.0, 1.0]), _CENTROIDS, 3),  # lists 0 and 1 are equally near
            (np.array([0.0, 1.0]), np.repeat(_CENTROIDS[:2], 12, axis=0), 20),  # twelve of each
        ],
        hint="np.argsort sorts upwards; only with kind='stable' do equal ones stay in the order of their numbers",
    ),
    "best_nlist": Exercise(
        best_nlist,
        [(10_000, 1), (1_000_000, 16), (5204, 8), (10, 1)],
        hint="1 - nprobe N / nlist^2 is zero there; the answer is not a whole number in general",
    ),
    "move_centroid": Exercise(
        move_centroid,
        [
            (np.array([1.0, 0.0]), np.array([[0.0, 1.0]]), 1),
            (np.array([1.0, 0.0]), np.array([[0.0, 1.0]]), 4),
            (np.array([0.6, 0.8]), np.array([[1.0, 0.0], [0.8, 0.6]]), 10),
        ],
        hint="n / size of the way from the centroid to the mean of the rows, and then to length 1",
    ),
}
