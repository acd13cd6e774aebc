"""``annsoftmax bench search``: recall, captured mass, time to search and time to be brought up to date."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref.bench.vectors import Vectors
from annsoftmax_ref.index import IVFBinaryIndex

ROUNDS = 5
MOVED = 0.1  # part of the rows that move before an update is timed


class OurIndex:
    """IVFBinaryIndex behind the few calls that the benchmark makes."""

    def __init__(self, rows: Tensor, nlist: int, candidates: int):
        self.name = f"IVFBinaryIndex, {candidates} candidates re-ranked"
        self.rows, self.candidates = rows, candidates
        self.index = IVFBinaryIndex(*rows.shape, nlist)
        self.index.train_lists(rows, torch.Generator().manual_seed(0))

    def search(self, queries: Tensor, k: int, nprobe: int) -> Tensor:
        ids, _ = self.index.search(queries, self.rows, max(k, self.candidates), nprobe)
        return ids[:, :k]

    def update(self, rows: Tensor, ids: Tensor) -> None:
        """Codes and lists of the moved rows, all of them at once."""
        self.rows = rows
        self.index.refresh(rows, ids)


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

    def search(self, queries: Tensor, k: int, nprobe: int) -> Tensor:
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
    candidates: int | None = None,
    rounds: int = ROUNDS,
) -> list[dict]:
    """One row for each index and nprobe: {"index", "classes", "dim", "batch", "k", "nlist", "nprobe", "recall",
    "captured_mass", "ms", "build_ms", "update_ms"}.

    recall: part of the k rows of largest cosine that were found. captured_mass: of softmax(scale * cosine) over all
    rows, the part on those found. ms: of one search of the whole batch, the median of rounds in which the indexes
    take turns. update_ms: after a tenth of the rows moved by a twentieth of their length.
    """
    rows, queries = vectors.rows, vectors.queries
    truth, mass = _exact(vectors, k)
    indexes, build_ms = [], []
    for make in _makers(rows, nlist, 4 * k if candidates is None else candidates, against):
        start = time.perf_counter()
        indexes.append(make())
        build_ms.append((time.perf_counter() - start) * 1e3)
    results = []
    for nprobe in nprobes:
        times: list[list[float]] = [[] for _ in indexes]
        found: list[Tensor] = []
        for round_ in range(rounds + 1):  # the first round warms up
            found = []
            for index, spent in zip(indexes, times, strict=True):
                start = time.perf_counter()
                found.append(index.search(queries, k, nprobe))
                if round_:
                    spent.append((time.perf_counter() - start) * 1e3)
        for index, ids, spent in zip(indexes, found, times, strict=True):
            results.append(
                {
                    "index": index.name,
                    "classes": len(rows),
                    "dim": rows.shape[1],
                    "batch": len(queries),
                    "k": k,
                    "nlist": nlist,
                    "nprobe": nprobe,
                    "recall": _recall(ids, truth),
                    "captured_mass": mass(ids),
                    "ms": median(spent),
                }
            )
    for index, built, updated in zip(indexes, build_ms, _update_times(indexes, rows), strict=True):
        for row in results:
            if row["index"] == index.name:
                row.update(build_ms=built, update_ms=updated)
    return results


def _makers(rows: Tensor, nlist: int, candidates: int, against: list[str]) -> list[Callable]:
    makers: list[Callable] = [lambda: OurIndex(rows, nlist, candidates)]
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


def _update_times(indexes, rows: Tensor) -> list[float]:
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
    return [median(spent) for spent in times]


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table."""
    lines = [
        "| index | nlist | nprobe | recall | captured mass | search ms | build ms | update ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r['index']} | {r['nlist']} | {r['nprobe']} | {r['recall']:.1%} | {r['captured_mass']:.1%} "
            f"| {r['ms']:.1f} | {r['build_ms']:.0f} | {r['update_ms']:.1f} |"
        )
    return "\n".join(lines)
