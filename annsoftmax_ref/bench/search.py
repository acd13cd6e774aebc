"""``annsoftmax bench search``: recall against time of search, and the time to be brought up to date.

An index has settings, each with a recall and a time: compared are the curves, never one setting with another.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref.bench.indexes import FaissGraph, makers
from annsoftmax_ref.bench.vectors import Vectors
from annsoftmax_ref.class_index import recall_of
from annsoftmax_ref.experiments.reports import grid

ROUNDS = 5
MOVED = 0.1  # part of the rows that move before an update is timed
RIVAL = "FAISS IndexIVFFlat"  # the index of the float rows, which the table of curves counts in
RECALLS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


def bench_search(
    vectors: Vectors,
    k: int,
    nlists: list[int],
    nprobes: list[int],
    against: list[str],
    candidates: list[int] | None = None,
    rounds: int = ROUNDS,
    on_index: Callable[[str, int | None, float], None] | None = None,
) -> list[dict]:
    """One row for each index and setting: {"index", "classes", "dim", "batch", "k", "nlist", "nprobe", "candidates",
    "recall", "captured_mass", "ms", "build_ms", "update_ms", "recall_after_update"}; None for what an index has not.

    candidates: how many codes an index of codes re-ranks, and the width of a graph's beam (default 4 k).
    against: "faiss" for its indexes with lists, "hnsw" for its graph.
    recall: part of the k rows of largest cosine that were found. captured_mass: of softmax(scale * cosine) over all
    rows, the part on those found. ms: of one search of the whole batch, the median of rounds in which the indexes of
    as many lists take turns. update_ms: after a tenth of the rows moved by a twentieth of their length, to the recall
    given. on_index is called with the name, lists and build time of each index.
    """
    truth, mass = exact_nearest(vectors, k)
    results = []
    for made in [makers(vectors.rows, nlist, against) for nlist in nlists] + [
        [lambda: FaissGraph(vectors.rows)] * ("hnsw" in against)
    ]:
        indexes, build_ms = [], []
        for make in made:
            start = time.perf_counter()
            indexes.append(make())
            build_ms.append((time.perf_counter() - start) * 1e3)
            if on_index is not None:
                on_index(indexes[-1].name, indexes[-1].nlist, build_ms[-1])
        results += _measured(indexes, build_ms, vectors, k, nprobes, candidates or [4 * k], rounds, truth, mass)
    return results


def _measured(
    indexes: list,
    build_ms: list[float],
    vectors: Vectors,
    k: int,
    nprobes: list[int],
    candidates: list[int],
    rounds: int,
    truth: Tensor,
    mass: Callable[[Tensor], float],
) -> list[dict]:
    """Rows of ``bench_search`` for indexes that take turns."""
    rows, queries = vectors.rows, vectors.queries
    settings = [
        (place, index, nprobe, c)
        for place, index in enumerate(indexes)
        for nprobe, c in itertools.product(nprobes if index.probes else [None], candidates if index.widens else [None])
    ]
    times: list[list[float]] = [[] for _ in settings]
    found: list[Tensor] = []
    for round_ in range(rounds + 1):  # the first round warms up
        found = []
        for (_, index, nprobe, c), spent in zip(settings, times, strict=True):
            start = time.perf_counter()
            found.append(index.search(queries, k, nprobe, c))
            if round_:
                spent.append((time.perf_counter() - start) * 1e3)
    results = [
        {
            "index": index.name,
            "classes": len(rows),
            "dim": rows.shape[1],
            "batch": len(queries),
            "k": k,
            "nlist": index.nlist,
            "nprobe": nprobe,
            "candidates": c,
            "recall": recall_of(ids, truth),
            "captured_mass": mass(ids),
            "ms": median(spent),
            "build_ms": build_ms[place],
            "update_ms": None,
            "recall_after_update": None,
        }
        for (place, index, nprobe, c), ids, spent in zip(settings, found, times, strict=True)
    ]
    following = [index for index in indexes if index.follows]
    moved, update_ms = _move(following, rows)
    truth, _ = exact_nearest(Vectors(moved, queries, vectors.scale, vectors.kind), k)
    for row, (_, index, nprobe, c) in zip(results, settings, strict=True):
        if index.follows:
            row["update_ms"] = update_ms[following.index(index)]
            row["recall_after_update"] = recall_of(index.search(queries, k, nprobe, c), truth)
    return results


def frontier(rows: list[dict]) -> list[dict]:
    """For each index, fastest first, the rows in which it finds more than in all of its faster ones."""
    kept: dict[str, list[dict]] = {row["index"]: [] for row in rows}
    for row in sorted(rows, key=lambda r: r["ms"]):
        faster = kept[row["index"]]
        if not faster or row["recall"] > faster[-1]["recall"]:
            faster.append(row)
    return [row for index in kept.values() for row in index]


def at_recall(front: list[dict], recall: float) -> tuple[float, dict] | None:
    """Where one index's frontier crosses a recall: ms, between settings on a logarithmic scale, and the setting that
    has it; None if none has. Its fastest setting, where even that has more."""
    for slower, faster in zip(front, [None, *front], strict=False):
        if slower["recall"] >= recall:
            if faster is None:
                return slower["ms"], slower
            part = (recall - faster["recall"]) / (slower["recall"] - faster["recall"])
            return math.exp((1 - part) * math.log(faster["ms"]) + part * math.log(slower["ms"])), slower
    return None


def exact_nearest(vectors: Vectors, k: int) -> tuple[Tensor, Callable[[Tensor], float]]:
    """The true k nearest [B, k], and a function from found ids [B, k] to the captured mass."""
    truth, log_z = [], []
    for part in vectors.queries.split(64):
        cosine = part @ vectors.rows.T
        truth.append(cosine.topk(k, dim=1).indices)
        log_z.append((vectors.scale * cosine).logsumexp(dim=1))
    total = torch.cat(log_z)

    def mass(ids: Tensor) -> float:
        cosine = torch.einsum("bd,bkd->bk", vectors.queries, vectors.rows[ids.clamp_min(0)])
        logits = (vectors.scale * cosine).masked_fill(ids < 0, -torch.inf)
        return (logits.logsumexp(dim=1) - total).exp().mean().item()

    return torch.cat(truth), mass


def _move(indexes, rows: Tensor) -> tuple[Tensor, list[float]]:
    """Move a tenth of the rows, three times, and tell each index: the rows as they are then, and each index's time."""
    generator = torch.Generator().manual_seed(1)
    times: list[list[float]] = [[] for _ in indexes]
    for round_ in range(3):
        ids = torch.randperm(len(rows), generator=generator)[: max(1, int(MOVED * len(rows)))].sort().values
        noise = torch.randn(len(ids), rows.shape[1], generator=generator) / rows.shape[1] ** 0.5
        rows = rows.clone()
        rows[ids] = F.normalize(rows[ids] + 0.05 * noise, dim=1)
        for index, spent in zip(indexes, times, strict=True):
            start = time.perf_counter()
            index.update(rows, ids)
            if round_:
                spent.append((time.perf_counter() - start) * 1e3)
    return rows, [median(spent) for spent in times]


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table. It names no winner: at what recall indexes are compared would decide who that is."""
    titles = ["index", "nlist", "nprobe", "re-ranked", "recall", "captured mass", "search ms", "build ms", "update ms"]
    lines = [
        [
            r["index"],
            str(r["nlist"] or "-"),
            str(r["nprobe"] or "-"),
            str(r["candidates"] or "-"),
            f"{r['recall']:.1%}",
            f"{r['captured_mass']:.1%}",
            f"{r['ms']:.1f}",
            f"{r['build_ms']:.0f}",
            "-" if r["update_ms"] is None else f"{r['update_ms']:.1f}",
            "-" if r["update_ms"] is None else f"{r['recall_after_update']:.1%}",
        ]
        for r in rows
    ]
    return grid([*titles, "recall then"], lines)


def curves_table(rows: list[dict]) -> str:
    """Each index's curve as a Markdown table: milliseconds to equal recalls, in brackets how many times ``RIVAL``'s."""
    fronts: dict[str, list[dict]] = {}
    for row in frontier(rows):
        fronts.setdefault(row["index"], []).append(row)
    rival = fronts.get(RIVAL, [])
    lines = []
    for name, front in fronts.items():
        cells = []
        for recall in RECALLS:
            here, there = at_recall(front, recall), at_recall(rival, recall)
            times = f" ({here[0] / there[0]:.1f})" if here and there and name != RIVAL else ""
            cells.append(f"{here[0]:.1f}{times}" if here else "-")
        lines.append([name, *cells, _span(front, "build_ms"), _span(front, "update_ms")])
    table = grid(["index", *[f"{recall:.0%}" for recall in RECALLS], "build ms", "update ms"], lines)
    factors = update_factors(rows)
    if not factors:
        return table
    return f"{table}\n\n{RIVAL}'s update takes {min(factors):.0f} to {max(factors):.0f} times ours at equal recall."


def update_factors(rows: list[dict]) -> list[float]:
    """``RIVAL``'s update over ours at each of ``RECALLS`` that both reach, by the faster of our two kinds."""
    front = frontier([{**row, "index": "ours"} for row in rows if row["index"].startswith("IVFBinaryIndex")])
    rival = frontier([row for row in rows if row["index"] == RIVAL])
    pairs = [(at_recall(front, recall), at_recall(rival, recall)) for recall in RECALLS]
    return [there[1]["update_ms"] / here[1]["update_ms"] for here, there in pairs if here and there]


def _span(rows: list[dict], name: str) -> str:
    """The least and the most of a number that rows have, "-" if they have none."""
    values = [row[name] for row in rows if row[name] is not None]
    ends = sorted({f"{min(values):.0f}", f"{max(values):.0f}"}, key=float) if values else ["-"]
    return " to ".join(ends)
