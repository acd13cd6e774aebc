"""The indexes that ``annsoftmax bench search`` compares, behind the same calls: make, search, bring up to date.

Each has a ``name``; ``probes``: whether a search probes lists; ``widens``: whether it looks at more candidates than it
returns, and how many is a setting; ``follows``: whether rows that moved can be brought up to date.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from annsoftmax_ref.index import IVFBinaryIndex
from annsoftmax_ref.rows import by_cosine

REFRESHED = 1000  # rows whose lists a training step looks at, with 50,000 classes or more


class OurIndex:
    """IVFBinaryIndex: codes, of which ``candidates`` are re-ranked."""

    probes = widens = follows = True

    def __init__(self, rows: Tensor, nlist: int, asymmetric: bool = False):
        self.name = "IVFBinaryIndex, " + ("4-bit queries" if asymmetric else "Hamming")
        self.rows, self.nlist = rows, nlist
        self.index = IVFBinaryIndex(*rows.shape, nlist, asymmetric=asymmetric)
        self.index.train_lists(rows, torch.Generator().manual_seed(0))
        self.cursor = 0

    def search(self, queries: Tensor, k: int, nprobe: int, candidates: int) -> Tensor:
        """The k best of ``candidates`` codes, by exact cosine."""
        candidates = max(k, candidates)
        ids, _ = self.index.search(queries, self.rows, candidates, nprobe, rerank=candidates > k)
        return ids[:, :k]

    def update(self, rows: Tensor, ids: Tensor) -> None:
        """What a training step does: codes of all moved rows now, lists of the next 1,000 rows in turn."""
        self.rows = rows
        self.index.update_rows(rows, ids)
        last = min(len(rows), self.cursor + REFRESHED)
        self.index.refresh(rows, torch.arange(self.cursor, last))
        self.cursor = last % len(rows)


class FaissLists:
    """A FAISS index with inverted lists. Those of codes have their candidates re-ranked by the kernel that ours has."""

    KINDS = ("IndexIVFFlat", "IndexBinaryIVF", "IndexIVFRaBitQ", "IndexIVFRaBitQFastScan", "IndexIVFPQFastScan")
    probes = follows = True

    def __init__(self, kind: str, rows: Tensor, nlist: int):
        import faiss

        self.kind, self.name, self.rows, self.nlist = kind, f"FAISS {kind}", rows, nlist
        self.widens = kind != "IndexIVFFlat"
        faiss.omp_set_num_threads(torch.get_num_threads())
        dim, inner = rows.shape[1], faiss.METRIC_INNER_PRODUCT
        self.coarse = faiss.IndexBinaryFlat(dim) if kind == "IndexBinaryIVF" else faiss.IndexFlatIP(dim)
        if kind == "IndexBinaryIVF":
            self.index = faiss.IndexBinaryIVF(self.coarse, dim, nlist)
        elif kind == "IndexIVFPQFastScan":  # 4 bits for each two numbers, which is the usual choice
            self.index = faiss.IndexIVFPQFastScan(self.coarse, dim, nlist, dim // 2, 4, inner)
        else:
            self.index = getattr(faiss, kind)(self.coarse, dim, nlist, inner)
        sample = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[: 64 * nlist]]
        self.index.train(self._vectors(sample))
        self.index.add(self._vectors(rows))

    def search(self, queries: Tensor, k: int, nprobe: int, candidates: int | None) -> Tensor:
        self.index.nprobe = nprobe
        found = torch.from_numpy(self.index.search(self._vectors(queries), max(k, candidates or k))[1])
        return found if found.shape[1] == k else by_cosine(queries, self.rows, found)[0][:, :k]

    def update(self, rows: Tensor, ids: Tensor) -> None:
        """Moved rows are taken out and added again: FAISS has no call that changes them in place for all kinds."""
        self.rows = rows
        self.index.remove_ids(ids.numpy())
        self.index.add_with_ids(self._vectors(rows[ids]), ids.numpy())

    def _vectors(self, rows: Tensor):
        if self.kind != "IndexBinaryIVF":
            return rows.numpy()
        import numpy as np

        return np.packbits((rows > 0).numpy(), axis=1, bitorder="little")


class FaissGraph:
    """FAISS IndexHNSWFlat: a graph of neighbours, searched with a beam of ``candidates``. Rows cannot be taken out."""

    name, nlist = "FAISS IndexHNSWFlat", None
    probes, widens, follows = False, True, False

    def __init__(self, rows: Tensor, neighbours: int = 32):
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        self.index = faiss.IndexHNSWFlat(rows.shape[1], neighbours, faiss.METRIC_INNER_PRODUCT)
        self.index.add(rows.numpy())

    def search(self, queries: Tensor, k: int, nprobe: None, candidates: int) -> Tensor:
        self.index.hnsw.efSearch = max(k, candidates)
        return torch.from_numpy(self.index.search(queries.numpy(), k)[1])


class ScannTree:
    """ScaNN: lists, anisotropic codes of 4 bits for each two numbers, and the best in the order of rows of its own. Not
    among the extras, since its package is there for few machines: pip install scann."""

    name, probes, widens, follows = "ScaNN", True, True, False

    def __init__(self, rows: Tensor, nlist: int):
        import scann

        self.nlist, self.threads = nlist, torch.get_num_threads()
        builder = scann.scann_ops_pybind.builder(rows.numpy(), 10, "dot_product").set_n_training_threads(self.threads)
        tree = builder.tree(nlist, 1, training_sample_size=min(len(rows), 64 * nlist))
        # What its authors advise for dot products of vectors of length 1, and more re-ordered in each search.
        self.index = tree.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100).build()

    def search(self, queries: Tensor, k: int, nprobe: int, candidates: int) -> Tensor:
        threads = torch.get_num_threads()
        if threads != self.threads:
            self.index.set_num_threads(threads)
            self.threads = threads
        ask = self.index.search_batched if threads == 1 else self.index.search_batched_parallel
        return torch.from_numpy(ask(queries.numpy(), k, max(k, candidates), nprobe)[0].astype("int64"))


def makers(rows: Tensor, nlist: int, against: list[str]) -> list[Callable]:
    """What makes each index over rows [N, d] that has ``nlist`` lists. against: "faiss" for its indexes, too."""
    made: list[Callable] = [lambda: OurIndex(rows, nlist), lambda: OurIndex(rows, nlist, asymmetric=True)]
    if "faiss" in against:
        made += [lambda kind=kind: FaissLists(kind, rows, nlist) for kind in FaissLists.KINDS]
    return made
