"""``annsoftmax bench predict``: one query and a batch of them among N classes, by ours and by other libraries' indexes.

An index has settings, each with a recall and a time. First each goes through its settings, then those that are fastest
among the ones with enough recall take turns.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from annsoftmax_ref.bench.indexes import FaissGraph, FaissLists, ScannTree
from annsoftmax_ref.bench.search import exact_nearest
from annsoftmax_ref.bench.vectors import Vectors
from annsoftmax_ref.class_index import ClassIndex, recall_of
from annsoftmax_ref.experiments.reports import grid
from annsoftmax_ref.head import SoftmaxHead

OURS, EXACT = "head.topk, approximate", "head.topk, exact"
LISTS = ("IndexIVFFlat", "IndexIVFRaBitQFastScan", "IndexIVFPQFastScan")
PROBES = (1, 2, 4, 8, 16, 32, 64)
CANDIDATES = (4, 8, 16, 32, 64)  # for each of the k nearest
SINGLE = 32  # queries that are asked one by one, in a round
LOOKS = 3  # at each setting, before the best are compared


class OurHead:
    """A head's approximate search, by an index of so many lists."""

    name, probes, widens, rows_beside = OURS, True, True, True

    def __init__(self, head: SoftmaxHead, nlist: int):
        self.head, self.nlist = head, nlist
        self.own = ClassIndex(head.weight, nlist)

    def search(self, queries: Tensor, k: int, nprobe: int, candidates: int) -> Tensor:
        self.head.class_index = self.own
        return self.head.topk(queries, k, True, nprobe, candidates)[1]

    def bytes(self) -> int:
        index = self.own.index
        return sum(t.nbytes for t in (*index.buffers(), *index.lists.tensors()))


class ExactHead:
    """A head's exact search, which needs no index."""

    name, nlist, probes, widens, rows_beside = EXACT, None, False, False, True

    def __init__(self, head: SoftmaxHead):
        self.head = head

    def search(self, queries: Tensor, k: int, nprobe: None, candidates: None) -> Tensor:
        return self.head.topk(queries, k)[1]

    def bytes(self) -> int:
        return 0


class Lists(FaissLists):
    """One of FAISS's with lists; where its codes are re-ranked, it is with the rows that a head has anyway."""

    @property
    def rows_beside(self) -> bool:
        return self.widens

    def bytes(self) -> int:
        return _serialized(self.index)


class Graph(FaissGraph):
    """FAISS's graph, whose rows are its own."""

    rows_beside = False

    def __init__(self, rows: Tensor, neighbours: int):
        super().__init__(rows, neighbours)
        self.name = f"{FaissGraph.name}, M = {neighbours}"

    def bytes(self) -> int:
        return _serialized(self.index)


class Tree(ScannTree):
    """ScaNN's, whose rows are its own."""

    rows_beside = False

    def bytes(self) -> int:
        with tempfile.TemporaryDirectory() as folder:  # what it would load
            self.index.serialize(folder)
            return sum(path.stat().st_size for path in Path(folder).iterdir())


@dataclass
class SearchSetting:
    """One of an index's, and what was seen of it; ms by the number of queries that are asked at once."""

    index: object
    nprobe: int | None
    candidates: int | None
    recall: float = 0.0
    ms: dict[int, float] = field(default_factory=dict)

    def ask(self, queries: Tensor, k: int) -> Tensor:
        return self.index.search(queries, k, self.nprobe, self.candidates)


def bench_predict(
    vectors: Vectors,
    k: int,
    nlists: list[int],
    against: list[str],
    recall: float = 0.95,
    threads: int = 1,
    neighbours: tuple[int, ...] = (16, 32),
    rounds: int = 9,
    on_index: Callable[[str, float], None] | None = None,
) -> tuple[list[dict], list[dict]]:
    """Rows, one for each index and number of queries (1 and all): {"index", "classes", "dim", "k", "queries",
    "threads", "recall", "recall_asked", "ms", "nlist", "nprobe", "candidates", "build_s", "index_mb", "total_mb"}; and
    all settings that were looked at.

    ms: of one search, the median of rounds in which the indexes take turns, each with its fastest setting of at least
    ``recall``; None where it has none (``recall`` is its largest then). Of one query, the median over 32 in each round.
    index_mb: what it holds beside the rows; total_mb: with the head's rows where its search reads these, too. Indexes
    are made with all cores, and asked with ``threads``. against: "faiss" for its lists, "scann", "hnsw" for FAISS's
    graph, with ``neighbours`` each. on_index is called with the name and build time of each index.
    """
    before = torch.get_num_threads()
    try:
        truth, _ = exact_nearest(vectors, k)
        made = list(_made(vectors.rows, nlists, against, neighbours, on_index))
        _use_threads(threads, against)
        settings = [s for index, _ in made for s in _settings(index, vectors, k, truth)]
        return _in_turn(made, settings, vectors, k, recall, threads, rounds), [_described(s) for s in settings]
    finally:
        _use_threads(before, against)


def _made(rows, nlists, against, neighbours, on_index) -> Iterator[tuple[object, float]]:
    """Each index, and the seconds that it took to make."""
    head = SoftmaxHead(*rows.shape).eval()
    with torch.no_grad():
        head.weight.copy_(rows)
    makers = [lambda: ExactHead(head), *(lambda n=n: OurHead(head, n) for n in nlists)]
    if "faiss" in against:
        makers += [lambda n=n, kind=kind: Lists(kind, rows, n) for kind in LISTS for n in nlists]
    if "scann" in against:
        makers += [lambda n=n: Tree(rows, n) for n in nlists]
    if "hnsw" in against:
        makers += [lambda m=m: Graph(rows, m) for m in neighbours]
    _use_threads(os.cpu_count() or 1, against)
    for make in makers:
        start = time.perf_counter()
        index = make()
        seconds = time.perf_counter() - start
        if on_index is not None:
            on_index(_name(index), seconds)
        yield index, seconds


def _settings(index, vectors: Vectors, k: int, truth: Tensor) -> Iterator[SearchSetting]:
    """An index's, with recall and times."""
    probes = [p for p in PROBES if p <= index.nlist] if index.probes else [None]
    candidates = [min(c * k, len(vectors.rows)) for c in CANDIDATES] if index.widens else [None]
    for nprobe, c in itertools.product(probes, dict.fromkeys(candidates)):
        setting = SearchSetting(index, nprobe, c)
        setting.recall = recall_of(setting.ask(vectors.queries, k), truth)
        setting.ms = {n: median(_ms(setting, vectors.queries, n, k) for _ in range(LOOKS)) for n in _counts(vectors)}
        yield setting


def _in_turn(made, settings, vectors, k, recall, threads, rounds) -> list[dict]:
    rows = []
    for count in _counts(vectors):
        chosen = [(index, seconds, _best(settings, index, recall, count)) for index, seconds in made]
        times: list[list[float]] = [[] for _ in chosen]
        for _ in range(rounds):
            for (_, _, setting), spent in zip(chosen, times, strict=True):
                spent.append(_ms(setting, vectors.queries, count, k))
        for (index, seconds, setting), spent in zip(chosen, times, strict=True):
            size = index.bytes() / 1e6
            rows.append(
                _described(setting)
                | {
                    "classes": len(vectors.rows),
                    "dim": vectors.rows.shape[1],
                    "k": k,
                    "queries": count,
                    "threads": threads,
                    "recall_asked": recall,
                    "ms": median(spent) if setting.recall >= recall else None,
                    "build_s": seconds,
                    "index_mb": size,
                    "total_mb": size + index.rows_beside * vectors.rows.nbytes / 1e6,
                }
            )
    return rows


def _best(settings: list[SearchSetting], index, recall: float, count: int) -> SearchSetting:
    """An index's fastest setting with enough recall; where there is none, that with the most."""
    own = [setting for setting in settings if setting.index is index]
    enough = [setting for setting in own if setting.recall >= recall]
    return min(enough, key=lambda s: s.ms[count]) if enough else max(own, key=lambda s: s.recall)


def _ms(setting: SearchSetting, queries: Tensor, count: int, k: int) -> float:
    """Milliseconds of a search with ``count`` queries; of less than all, the median over some of them."""
    spent = []
    for part in queries.split(count)[: 1 if count == len(queries) else SINGLE]:
        start = time.perf_counter()
        setting.ask(part, k)
        spent.append((time.perf_counter() - start) * 1e3)
    return median(spent)


def _counts(vectors: Vectors) -> list[int]:
    return sorted({1, len(vectors.queries)})


def _described(setting: SearchSetting) -> dict:
    return {
        "index": setting.index.name,
        "nlist": setting.index.nlist,
        "nprobe": setting.nprobe,
        "candidates": setting.candidates,
        "recall": setting.recall,
        "looked_ms": {str(count): ms for count, ms in setting.ms.items()},
    }


def _name(index) -> str:
    return index.name if index.nlist is None else f"{index.name}, {index.nlist} lists"


def _serialized(index) -> int:
    import faiss

    return faiss.serialize_index(index).nbytes


def _use_threads(count: int, against: list[str]) -> None:
    torch.set_num_threads(count)
    if {"faiss", "hnsw"} & set(against):
        import faiss

        faiss.omp_set_num_threads(count)


def table(rows: list[dict]) -> str:
    """A Markdown table, a line an index: milliseconds of one query and of all, in brackets how many times ours."""
    counts = sorted({row["queries"] for row in rows})
    ours = {
        n: min((r["ms"] for r in rows if r["index"] == OURS and r["queries"] == n and r["ms"]), default=None)
        for n in counts
    }
    lines: dict[tuple, list[str]] = {}
    for row in rows:
        line = lines.setdefault((row["index"], row["nlist"]), [])
        line += [_cell(row, ours[row["queries"]]), f"{row['recall']:.1%}"]
        if row["queries"] == counts[-1]:
            line += [f"{row['index_mb']:.0f}", f"{row['total_mb']:.0f}", f"{row['build_s']:.1f}"]
    titles = [title for n in counts for title in (f"{n} quer{'y' if n == 1 else 'ies'}, ms", "recall")]
    return grid(
        ["index", "nlist", *titles, "index MB", "with rows MB", "made in s"],
        [[name, str(nlist or "-"), *cells] for (name, nlist), cells in lines.items()],
    )


def _cell(row: dict, ours: float | None) -> str:
    if row["ms"] is None:
        return "-"
    times = f" ({row['ms'] / ours:.2f})" if ours and row["index"] != OURS else ""
    setting = [f"{row[name]} {word}" for name, word in (("nprobe", "lists"), ("candidates", "candidates")) if row[name]]
    return f"{row['ms']:.2f}{times}{': ' * bool(setting)}{', '.join(setting)}"
