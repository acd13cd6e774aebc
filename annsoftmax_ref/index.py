"""IVFBinaryIndex: sign-bit codes in an inverted file, over rows that keep moving.

The paper names the parts, binary quantization with an inverted file system, and no parameter; those are ours.
Search: a query probes the ``nprobe`` lists whose centroids are nearest, takes the ``k`` codes of smallest
Hamming distance in them, and (``rerank``) orders these by exact cosine. Upkeep: ``update_rows`` rewrites the
codes of rows that moved, ``refresh`` puts some rows into their nearest list and moves the centroids a little.
Neither costs more than the rows it is given. NumPy twin: ``annsoftmax_ref.reference.index``.
"""

from __future__ import annotations

import logging
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.host_numbers import number, set_number, told
from annsoftmax_ref.index_changes import IndexChanges
from annsoftmax_ref.lists import InvertedLists, ListSizes
from annsoftmax_ref.machine.waiting import LongWork
from annsoftmax_ref.row_parameter import unwatching
from annsoftmax_ref.rows import by_cosine
from annsoftmax_ref.shortlists import EXACT, Shortlists, largest, list_sums, moved_centroids, moved_means, nearest
from kernels_inline.bits import hamming, pack_bits, words_for
from kernels_inline.encode_ops import encode
from kernels_inline.head_ops import gather_normalise
from kernels_inline.lists_ops import write_codes_
from kernels_inline.scan_ops import ivf_scan, ivf_scan_asymmetric, ivf_scan_asymmetric_torch, ivf_scan_torch

logger = logging.getLogger(__name__)

# Queries are scanned in chunks of about this many codes, so that the scan's temporaries stay in cache.
CHUNK = 1 << 18
# Making an index of fewer rows takes a second; what is waited for there is the kernels' build, which has its own line.
SPOKEN_OF = 100_000


class IVFBinaryIndex(IndexChanges):
    """An index over N rows of d numbers; buffers only, so it moves and is saved with the module it is part of.

    rotate: multiply by a random orthogonal matrix before taking signs. centre: take the list's centroid off
    before taking signs (residual codes). asymmetric: compare codes with the query rounded to 4 bits a number instead
    of with its signs: better candidates, for two to four times the scan (RaBitQ; ``kernels_inline.scan_ops``).
    Rows are normalised by the index; their lengths do not matter.
    """

    def __init__(
        self, num_rows: int, dim: int, nlist: int, rotate: bool = False, centre: bool = False, asymmetric: bool = False
    ):
        super().__init__()
        check_positive_int("num_rows", num_rows)
        check_positive_int("dim", dim)
        check_positive_int("nlist", nlist)
        if nlist > num_rows:
            raise ValueError(f"nlist is {nlist}; it should be at most the number of rows, {num_rows}")
        self.num_rows, self.dim, self.nlist = num_rows, dim, nlist
        if centre and asymmetric:
            raise ValueError(
                "centre and asymmetric are both True; asymmetric scores of residual codes of different "
                "lists do not compare: choose one"
            )
        self.rotate, self.centre, self.asymmetric = rotate, centre, asymmetric
        self.register_buffer("centroids", torch.zeros(nlist, dim))
        self.register_buffer("means", torch.zeros(nlist, dim))  # of each list's rows, which makes them shorter than 1
        self.register_buffer("assignment", torch.zeros(num_rows, dtype=torch.int64))
        self.register_buffer("codes", torch.zeros(num_rows, words_for(dim), dtype=torch.int64))
        self.register_buffer("written", torch.zeros(num_rows, dtype=torch.int32))  # clock of each code
        self.register_buffer("clock", torch.zeros((), dtype=torch.int32))
        self.register_buffer("trained", torch.zeros((), dtype=torch.uint8))
        self.register_buffer("rotation", torch.eye(dim) if rotate else None)
        self.outdated = False  # whether the lists are of other rows than the codes: they are to be made anew
        self.has_slots = True  # for ``search``; where all codes are read instead, slots would repeat them for nothing
        self._lists: InvertedLists | ListSizes | None = None

    @property
    def lists(self) -> InvertedLists | ListSizes:
        kind = InvertedLists if self.has_slots else ListSizes
        if type(self._lists) is not kind or self._lists.assignment is not self.assignment:
            with torch.inference_mode(False):  # what is made in that mode could never be written to again
                self._lists = kind(self.assignment, self.codes, self.nlist)
        return self._lists

    @torch.no_grad()
    def train_lists(
        self, rows: Tensor, generator: torch.Generator, iterations: int = 5, samples_per_list: int = 64
    ) -> None:
        """Spherical k-means on a sample of rows [N, d], then every row gets its list and its code.

        With more than ``shortlists.EXACT`` pairs of row and centroid both go by ``Shortlists``. What takes long says in
        the log how far it is.
        """
        self._check_rows(rows, self.num_rows)
        work = LongWork(logger, f"making the index of {self.num_rows:,} classes", silent=self.num_rows < SPOKEN_OF)
        if self.rotate:
            gaussian = torch.randn(self.dim, self.dim, generator=generator, dtype=torch.float64)
            self.rotation.copy_(torch.linalg.qr(gaussian).Q)
        count = min(self.num_rows, self.nlist * samples_per_list)
        picks = torch.randperm(self.num_rows, generator=generator)[:count].to(rows.device)
        sample, few = self._unit_rows(rows, picks), self.num_rows * self.nlist <= EXACT
        self.centroids.copy_(sample[: self.nlist])  # k distinct rows to start from
        work.begin("k-means", iterations)
        for _ in range(iterations):
            lists = self.nearest_list(sample) if few else Shortlists(self.centroids).lists_of(sample)
            found = list_sums(sample, lists, self.nlist)
            self.centroids.copy_(moved_centroids(self.centroids, found))
            work.add(1)
        self.means.copy_(moved_means(self.centroids, found))
        everything = torch.arange(self.num_rows, device=rows.device)
        work.begin("lists", self.num_rows if few else 2 * self.num_rows)
        if few:
            for ids in everything.split(1 << 16):
                self.assignment[ids] = self.nearest_list(self._unit_rows(rows, ids))
                work.add(len(ids))
        else:
            self.assignment.copy_(Shortlists(self.centroids).lists_of(rows, work.add))
        self._lists = None
        work.begin("codes", self.num_rows)
        for ids in everything.split(1 << 16):
            self.update_rows(rows, ids)
            work.add(len(ids))
        set_number(self.trained, True)
        self.outdated = False

    def nearest_list(self, unit_rows: Tensor) -> Tensor:
        """unit_rows [n, d] -> the list of the nearest centroid [n] (ties to the lowest)."""
        return nearest(unit_rows, self.centroids)

    def encode(self, unit_rows: Tensor, lists: Tensor | None = None) -> Tensor:
        """unit_rows [..., d], lists [...] (used if ``centre``) -> codes [..., W] int64."""
        if self.centre:
            unit_rows = unit_rows - self.centroids[lists]
        if self.rotate:
            unit_rows = unit_rows @ self.rotation
        return pack_bits(unit_rows > 0)

    @torch.no_grad()
    def update_rows(self, rows: Tensor, ids: Tensor) -> None:
        """Rewrite the codes of rows ids [n] of rows [N, d]; their lists stay."""
        for part in ids.split(1 << 16):
            self.write_codes(part, self._encode_rows(rows, part, self.assignment[part]))

    @torch.no_grad()
    def update_all(self, rows: Tensor) -> float:
        """Rewrite the codes of all rows [N, d]; the share of their bits that changed."""
        before = self.codes.clone()
        self.update_rows(rows, torch.arange(self.num_rows, device=rows.device))
        return hamming(before, self.codes).sum().item() / (self.num_rows * self.dim)

    @torch.no_grad()
    def write_codes(self, ids: Tensor, codes: Tensor) -> None:
        """New codes [n, W] of rows ids [n], made by ``update_rows`` or by the optimizer as it moved the rows."""
        lists, now = self.lists, told(lambda: number(self.clock), codes.device, torch.int32)
        if self.has_slots and backend.runs(write_codes_, codes):
            write_codes_(self.codes, lists.slot_codes, self.written, self.assignment, lists.place, ids, codes, now)
        else:
            lists.write_codes(ids, codes)
            self.written[ids] = now

    def _encode_rows(self, rows: Tensor, ids: Tensor, lists: Tensor) -> Tensor:
        """Codes of rows ids [n] of rows [N, d], which are in lists [n]."""
        if backend.runs(encode, self.centroids, rows=rows):
            return encode(
                rows, ids, self.rotation, self.centroids if self.centre else None, lists if self.centre else None
            )
        return self.encode(self._unit_rows(rows, ids), lists)

    @torch.no_grad()
    def refresh(self, rows: Tensor, ids: Tensor, move_centroids: bool = True) -> int | Tensor:
        """Put rows ids [n] of rows [N, d] into their nearest list, rewrite their codes, and move the centroids
        one mini-batch k-means step (Sculley 2010) towards them. Returns how many rows changed their list.
        Derived in notebook 05, section "Rows that move"."""
        unit_rows = self._unit_rows(rows, ids)
        lists = self.nearest_list(unit_rows)
        moved = self.lists.move(ids, lists)
        if move_centroids:
            found = list_sums(unit_rows, lists, self.nlist)
            self.centroids.copy_(moved_centroids(self.centroids, found, self.lists.sizes))
            self.means.copy_(moved_means(self.means, found, self.lists.sizes))
        self.update_rows(rows, ids)
        return moved

    @torch.no_grad()
    def refresh_means(self, rows: Tensor, ids: Tensor) -> None:
        """Move the mean rows towards rows ids [n] of rows [N, d], as ``refresh`` does; lists and codes stay."""
        found = list_sums(self._unit_rows(rows, ids), self.assignment[ids], self.nlist)
        self.means.copy_(moved_means(self.means, found, self.lists.sizes))

    @torch.no_grad()
    def search(self, queries: Tensor, rows: Tensor, k: int, nprobe: int, rerank: bool = True) -> tuple[Tensor, Tensor]:
        """queries [B, d], rows [N, d] -> ids [B, k] int64, scores [B, k], best first.

        Scores are cosines with ``rerank``, else minus the Hamming distance (<query, signs> if asymmetric). Where the
        probed lists hold fewer than k rows, the last ids are -1, their scores -inf. Equal scores: the lower id first.
        """
        self._check_rows(rows, self.num_rows)
        ids, found = self.scan(queries, k, nprobe, self.asymmetric)
        if rerank:
            return by_cosine(self._normalise(queries), rows.detach(), ids)
        scores = found if self.asymmetric else -found.to(self.centroids.dtype)
        return ids, scores.masked_fill(ids < 0, -torch.inf)

    @torch.no_grad()
    def scan(self, queries: Tensor, k: int, nprobe: int, asymmetric: bool) -> tuple[Tensor, Tensor]:
        """queries [B, d] -> the k codes nearest to each in ``nprobe`` lists: ids [B, k], -1 last, and their Hamming
        distances, or scores if asymmetric [B, k]. Codes that are not centred serve both kinds. Raises as ``search``."""
        if not 1 <= check_positive_int("nprobe", nprobe) <= self.nlist:
            raise ValueError(f"nprobe is {nprobe}; it should be from 1 to nlist, {self.nlist}")
        k = check_positive_int("k", k)
        if not number(self.trained):
            raise RuntimeError("the index has no lists yet; call train_lists first")
        queries = self._normalise(queries)
        return self._scan(queries, largest(queries @ self.centroids.T, nprobe), k, asymmetric)

    def as_cosines(self, scores: Tensor, rerank: bool) -> Tensor:
        """Scores as ``search`` gives them, with the same ``rerank`` -> the cosines that they stand for, or estimates.

        Of residual codes (``centre``) there is no estimate: their scores do not compare between lists.
        """
        if rerank:
            return scores
        if self.asymmetric:
            # <q, signs of w> is z <w, signs of w> on average, the sum of |w_i| about sqrt(2 d / pi) for |w| = 1.
            return (scores / math.sqrt(2 * self.dim / math.pi)).clamp(-1, 1)
        return (-scores * (math.pi / self.dim)).cos()  # signs differ in angle / pi of the bits

    def kept_tensors(self) -> list[Tensor]:
        """Those that outlive a step and are no buffers."""
        return [] if self._lists is None else self._lists.tensors()

    def code_age(self) -> float:
        """Mean number of steps (calls that wrote codes) since a row's code was written."""
        return (self.clock - self.written).double().mean().item()

    @torch.no_grad()
    @unwatching
    def stale_bits(self, rows: Tensor) -> float:
        """Share of code bits that a fresh encoding of rows [N, d], as they are stored, would change.

        Costs a pass over all rows. Rows that lag behind their optimizer are not brought up to date for it.
        """
        parts = torch.arange(self.num_rows, device=rows.device).split(1 << 16)
        fresh = torch.cat([self._encode_rows(rows, ids, self.assignment[ids]) for ids in parts])
        return hamming(self.codes, fresh).sum().item() / (self.num_rows * self.dim)

    def _scan(self, queries: Tensor, probed: Tensor, k: int, asymmetric: bool) -> tuple[Tensor, Tensor]:
        """``scan`` of unit queries in the lists probed [B, nprobe]; ties to the lower id."""
        lists, fast = self.lists, backend.runs(ivf_scan_asymmetric if asymmetric else ivf_scan, queries)
        if asymmetric:
            queries, scan = queries.float(), ivf_scan_asymmetric if fast else ivf_scan_asymmetric_torch
            sizes: tuple[int, ...] = (k, self.num_rows)
            keys = queries @ self.rotation.float() if self.rotate else queries
        else:
            scan = ivf_scan if fast else ivf_scan_torch
            sizes = (k, self.num_rows, self.dim)
            keys = self._keys(queries, probed)
        step = len(queries) if fast else max(1, CHUNK // (probed.shape[1] * lists.slots.shape[1]))
        parts = [
            scan(part, p, lists.slots, lists.slot_codes, lists.ends, *sizes)
            for part, p in zip(keys.split(step), probed.split(step), strict=True)
        ]
        return parts[0] if len(parts) == 1 else tuple(torch.cat(part) for part in zip(*parts, strict=True))

    def _keys(self, queries: Tensor, probed: Tensor) -> Tensor:
        """The queries' codes [B, 1, W], or [B, nprobe, W] where they depend on the list."""
        if self.centre or not backend.runs(encode, queries):
            return self.encode(queries.unsqueeze(1), probed)
        return encode(queries, torch.arange(len(queries), device=queries.device), self.rotation).unsqueeze(1)

    def _unit_rows(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Rows ids [n] of rows [N, d], scaled to length 1 [n, d]."""
        if backend.runs(gather_normalise, self.centroids, rows=rows):
            return gather_normalise(rows.detach(), ids, False)[0]
        return self._normalise(rows[ids])

    def _normalise(self, rows: Tensor) -> Tensor:
        return F.normalize(rows.detach().to(self.centroids.dtype), dim=-1)

    def _check_rows(self, rows: Tensor, count: int) -> None:
        if rows.shape != (count, self.dim):
            raise ValueError(f"rows has shape {list(rows.shape)}; it should be [{count}, {self.dim}]")

    def extra_repr(self) -> str:
        return f"{self.num_rows}, {self.dim}, nlist={self.nlist}, rotate={self.rotate}, centre={self.centre}"
