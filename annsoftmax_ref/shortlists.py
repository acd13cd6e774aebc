"""Which list is a row's: that of the nearest centroid, or, of very many, one found by a shortlist.

Comparing all rows with all centroids is most of what a first training step costs: at five million rows of 64 numbers
and 2,048 lists, 1.3 million million operations. So a row is first compared with centres of the centroids, and then
with no more than the centroids near its nearest centre. Most rows get the list that they would have got, the others
one nearly as near, and ``IVFBinaryIndex.refresh`` looks at every row again, with all centroids. NumPy twin:
``annsoftmax_ref.reference.index``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref import backend
from kernels_inline.encode_ops import assign
from kernels_inline.lists_ops import kmeans_sums

# Up to so many pairs of row and centroid (two million rows, 1,024 lists) every row is compared with all centroids:
# seconds at most, and no list but the nearest.
EXACT = 1 << 31
PART = 8  # one in so many: centres of the centroids, and centroids near each centre
ROUNDS = 3  # of k-means over the centroids
BLOCK = 1 << 19  # scores that are held at once: 2 MB, so that they stay in cache


def nearest(unit_rows: Tensor, centroids: Tensor) -> Tensor:
    """unit_rows [n, d], centroids [nlist, d] -> the list of the nearest centroid [n] (ties to the lowest)."""
    if backend.runs(assign, unit_rows, centroids):
        return assign(unit_rows, centroids)
    return (unit_rows @ centroids.T).argmax(dim=1)


def largest(scores: Tensor, count: int) -> Tensor:
    """scores [n, nlist] -> the places of the ``count`` largest of each row [n, count], in no order.

    On a CPU NumPy's selection takes a fifth of the time of torch's (64 of 1,024: 3 microseconds a row, not 17).
    """
    if backend.shapes_are_fixed(scores) or scores.dtype not in (torch.float32, torch.float64):
        return scores.topk(count, dim=1, sorted=False).indices
    return torch.from_numpy(np.argpartition(scores.numpy(), -count, axis=1)[:, -count:]).contiguous()


class ListSums(NamedTuple):
    """Of rows that were put into lists: the sum of each list's [nlist, d], and how many they are [nlist, 1]."""

    sums: Tensor
    counts: Tensor


def list_sums(unit_rows: Tensor, lists: Tensor, nlist: int) -> ListSums:
    """unit_rows [n, d], lists [n] -> their sums by list."""
    if backend.runs(kmeans_sums, unit_rows):
        sums, counts = kmeans_sums(unit_rows, lists, nlist)
    else:
        sums = unit_rows.new_zeros(nlist, unit_rows.shape[1]).index_add_(0, lists, unit_rows)
        counts = torch.bincount(lists, minlength=nlist)
    return ListSums(sums, counts.unsqueeze(1).to(unit_rows.dtype))


def moved_means(means: Tensor, found: ListSums, sizes: Tensor | None = None) -> Tensor:
    """m -> m + (n / size) (mean - m) for the n rows found of each list; sizes None: m -> mean, if n > 0."""
    sums, n = found
    share = (n > 0).to(n.dtype) if sizes is None else n / sizes.unsqueeze(1).clamp_min(1)
    return means + share * (sums / n.clamp_min(1) - means)


def moved_centroids(centroids: Tensor, found: ListSums, sizes: Tensor | None = None) -> Tensor:
    """The same, scaled to length 1."""
    return torch.where(found.counts > 0, F.normalize(moved_means(centroids, found, sizes), dim=1), centroids)


class Shortlists:
    """The nlist / 8 lists near each of nlist / 8 centres of the centroids, as ``reference.shortlists`` makes them."""

    def __init__(self, centroids: Tensor):
        self.centroids = centroids
        self.length = max(1, len(centroids) // PART)
        self.centres = centroids[: max(1, len(centroids) // PART)]
        for _ in range(ROUNDS):
            found = list_sums(centroids, nearest(centroids, self.centres), len(self.centres))
            self.centres = moved_centroids(self.centres, found)

    def near(self, centre: Tensor) -> Tensor:
        """centre [d] -> the lists nearest to it, ascending."""
        order = (self.centroids @ centre).argsort(descending=True, stable=True)
        return order[: self.length].sort().values

    def lists_of(self, rows: Tensor, on_rows: Callable[[int], None] = lambda count: None) -> Tensor:
        """rows [N, d], of any length -> their lists [N]. on_rows: told how many rows were looked at, 2 N in all."""
        groups = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
        step = -(-BLOCK // len(self.centres))
        for part, out in zip(rows.split(step), groups.split(step), strict=True):
            out.copy_(nearest(self._unit(part), self.centres))
            on_rows(len(part))
        lists = torch.empty_like(groups)
        members = groups.argsort(stable=True).split(torch.bincount(groups, minlength=len(self.centres)).tolist())
        for centre, ids in zip(self.centres, members, strict=True):
            near = self.near(centre)
            for part in ids.split(-(-BLOCK // self.length)):
                lists[part] = near[nearest(self._unit(rows[part]), self.centroids[near])]
                on_rows(len(part))
        return lists

    def _unit(self, rows: Tensor) -> Tensor:
        return F.normalize(rows.detach().to(self.centroids.dtype), dim=1)
