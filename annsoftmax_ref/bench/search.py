"""``annsoftmax bench search``: recall, captured mass, time to search and time to be brought up to date."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref.bench.vectors import Vectors
from annsoftmax_ref.experiments.reports import grid
from annsoftmax_ref.index import IVFBinaryIndex

ROUNDS = 5
MOVED = 0.1  # part of the rows that move before an update is timed


class OurIndex:
    """IVFBinaryIndex behind the few calls that the benchmark makes."""

    def __init__(self, rows: Tensor, nlist: int, asymmetric: bool = False):
        self.name = "IVFBinaryIndex, " + ("4-bit queries" if asymmetric else "Hamming")
        self.rows = rows
        self.index = IVFBinaryIndex(*rows.shape, nlist, asymmetric=asymmetric)
        self.index.train_lists(rows, torch.Generator().manual_seed(0))
        self.cursor = 0

    def search(self, queries: Tensor, k: int, nprobe: int, candidates: int) -> Tensor:
        """The k best of ``candidates`` codes, by exact cosine."""
        ids, _ = self.index.search(queries, self.rows, max(k, candidates), nprobe)
        return ids[:, :k]

    def update(self, rows: Tensor, ids: Tensor) -> None:
        """What a training step does: codes of all moved rows now, lists of the next 1,000 rows in turn."""
        self.rows = rows
        self.index.update_rows(rows, ids)
        last = min(len(rows), self.cursor + 1000)
        self.index.refresh(rows, torch.arange(self.cursor, last))
        self.cursor = last % len(rows)


class FaissIndex:
    """A FAISS index over the same rows, of the kinds that have inverted lists."""

    KINDS = ("IndexIVFFlat", "IndexBinaryIVF", "IndexIVFRaBitQ")

    def __init__(self, kind: str, rows: Tensor, nlist: int):
        import faiss

        self.faiss, self.kind, self.name = faiss, kind, f"FAISS {kind}"
        faiss.omp_set_num_threads(torch.get_num_threads())
        dim = rows.shape[1]
        if kind == "IndexBinaryIVF":
            self.coarse = faiss.IndexBinaryFlat(dim)
            self.index = faiss.IndexBinaryIVF(self.coarse, dim, nlist)
        else:
            self.coarse = faiss.IndexFlatIP(dim)
            self.index = getattr(faiss, kind)(self.coarse, dim, nlist, faiss.METRIC_INNER_PRODUCT)
        sample = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: 64 * nlist]]
        self.index.train(self._vectors(sample))
        self.index.add(self._vectors(rows))

    def search(self, queries: Tensor, k: int, nprobe: int, candidates: int) -> Tensor:
        self.index.nprobe = nprobe
        return torch.from_numpy(self.index.search(self._vectors(queries), k)[1])

    def update(self, rows: Tensor, ids: Tensor) -> None:
        """Moved rows are taken out and added again: FAISS has no call that changes them in place for all kinds."""
        self.index.remove_ids(ids.numpy())
        self.index.add_with_ids(self._vectors(rows[ids]), ids.numpy())

    def _vectors(self, rows: Tensor):
        if self.kind != "IndexBinaryIVF":
            return rows.numpy()
        import numpy as np

        return np.packbits((rows > 0).numpy(), axis=1, bitorder="little")


def bench_search(
    vectors: Vectors,
    k: int,
    nlist: int,
    nprobes: list[int],
    against: list[str],
    candidates: list[int] | None = None,
    rounds: int = ROUNDS,
) -> list[dict]:
    """One row for each index and setting: {"index", "classes", "dim", "batch", "k", "nlist", "nprobe", "candidates",
    "recall", "captured_mass", "ms", "build_ms", "update_ms", "recall_after_update"}.

    candidates: how many codes our index re-ranks (default 4 k); FAISS has no such setting.
    recall: part of the k rows of largest cosine that were found. captured_mass: of softmax(scale * cosine) over all
    rows, the part on those found. ms: of one search of the whole batch, the median of rounds in which the indexes
    take turns. update_ms: after a tenth of the rows moved by a twentieth of their length, to the recall given.
    """
    rows, queries = vectors.rows, vectors.queries
    truth, mass = _exact(vectors, k)
    indexes, build_ms = [], []
    for make in _makers(rows, nlist, against):
        start = time.perf_counter()
        indexes.append(make())
        build_ms.append((time.perf_counter() - start) * 1e3)
    settings = [
        (index, nprobe, c)
        for nprobe in nprobes
        for index in indexes
        for c in ((candidates or [4 * k]) if isinstance(index, OurIndex) else [k])
    ]
    times: list[list[float]] = [[] for _ in settings]
    found: list[Tensor] = []
    for round_ in range(rounds + 1):  # the first round warms up
        found = []
        for (index, nprobe, c), spent in zip(settings, times, strict=True):
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
            "nlist": nlist,
            "nprobe": nprobe,
            "candidates": c if isinstance(index, OurIndex) else None,
            "recall": _recall(ids, truth),
            "captured_mass": mass(ids),
            "ms": median(spent),
            "build_ms": build_ms[indexes.index(index)],
        }
        for (index, nprobe, c), ids, spent in zip(settings, found, times, strict=True)
    ]
    moved, update_ms = _move(indexes, rows)
    truth, _ = _exact(Vectors(moved, queries, vectors.scale, vectors.kind), k)
    for row, (index, nprobe, c) in zip(results, settings, strict=True):
        row["update_ms"] = update_ms[indexes.index(index)]
        row["recall_after_update"] = _recall(index.search(queries, k, nprobe, c), truth)
    return results


def frontier(rows: list[dict]) -> list[dict]:
    """For each index, fastest first, the rows in which it finds more than in all of its faster ones."""
    kept: dict[str, list[dict]] = {row["index"]: [] for row in rows}
    for row in sorted(rows, key=lambda r: r["ms"]):
        faster = kept[row["index"]]
        if not faster or row["recall"] > faster[-1]["recall"]:
            faster.append(row)
    return [row for index in kept.values() for row in index]


def _makers(rows: Tensor, nlist: int, against: list[str]) -> list[Callable]:
    makers: list[Callable] = [lambda: OurIndex(rows, nlist), lambda: OurIndex(rows, nlist, asymmetric=True)]
    if "faiss" in against:
        makers += [lambda kind=kind: FaissIndex(kind, rows, nlist) for kind in FaissIndex.KINDS]
    return makers


def _exact(vectors: Vectors, k: int) -> tuple[Tensor, Callable[[Tensor], float]]:
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


def _recall(found: Tensor, truth: Tensor) -> float:
    hits = [torch.isin(t, f).double().mean().item() for f, t in zip(found, truth, strict=True)]
    return sum(hits) / len(hits)


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
            str(r["nlist"]),
            str(r["nprobe"]),
            str(r["candidates"] or "-"),
            f"{r['recall']:.1%}",
            f"{r['captured_mass']:.1%}",
            f"{r['ms']:.1f}",
            f"{r['build_ms']:.0f}",
            f"{r['update_ms']:.1f}",
            f"{r['recall_after_update']:.1%}",
        ]
        for r in rows
    ]
    return grid([*titles, "recall then"], lines)
