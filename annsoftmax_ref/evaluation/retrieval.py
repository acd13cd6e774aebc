"""Retrieval as product search measures it (Stanford Online Products and the like): every sample is a query once
and all the others are its gallery.

The ranking is by cosine, largest first, ties to the lower index. A sample that is alone in its class has nothing
to find: it is no query, but stays in the gallery. All functions are pure: embeddings and labels in, numbers out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref.checks import check_positive_int

CELLS = 1 << 24  # cosines held at a time


def recall_at_k(
    embeddings: Tensor, labels: Tensor, ks: Sequence[int] = (1, 10, 100), chunk: int | None = None
) -> dict[int, float | None]:
    """For each k the part (0 to 1) of the queries with a sample of their own class among their k nearest others.

    embeddings [n, d] float, of any length; labels [n] integers; ``chunk``: queries at a time. A k beyond n - 1
    counts the whole gallery. None where no class has two samples, so that there is nothing to ask for.
    Raises TypeError or ValueError for embeddings or labels of another kind or shape, NaN, or a k below 1.
    Derived in notebook 10, section "Search, and be judged by the list".
    """
    ks = [check_positive_int("each k of ks", k) for k in ks]
    unit, labels = checked_samples(embeddings, labels)
    ranks = [_first_match(cosine, mates) for cosine, mates in _queries(unit, labels, chunk)]
    if not ranks:
        return dict.fromkeys(ks)
    ranks = torch.cat(ranks)
    return {k: int((ranks <= k).sum()) / len(ranks) for k in ks}


def mean_average_precision(embeddings: Tensor, labels: Tensor, chunk: int | None = None) -> float | None:
    """mAP (0 to 1) over the full ranking of each query's n - 1 others.

    A query's average precision is the mean, over the samples of its class, of the precision at the rank where each
    is found. Arguments and errors as in ``recall_at_k``; None where no class has two samples.
    Derived in notebook 10, section "Search, and be judged by the list".
    """
    unit, labels = checked_samples(embeddings, labels)
    sums, queries = 0.0, 0
    for cosine, mates in _queries(unit, labels, chunk):
        query, other = mates.nonzero(as_tuple=True)
        ranks = _ranks(cosine, query, other)
        by_rank = (query * (cosine.shape[1] + 1) + ranks).argsort()  # query is in order, so it stays as it is
        total = mates.sum(dim=1)
        found = torch.arange(1, len(query) + 1, device=unit.device) - (total.cumsum(0) - total)[query]
        sums += float((found.double() / ranks[by_rank] / total[query]).sum())
        queries += len(cosine)
    return sums / queries if queries else None


def _ranks(cosine: Tensor, query: Tensor, other: Tensor) -> Tensor:
    """cosine [q, n]; pairs query, other [p], by query -> [p] int64, the rank (from 1) of ``other`` in the query's row.

    Looked up in the row's sorted cosines; only where several are equal are those of lower index counted.
    """
    lengths = torch.bincount(query, minlength=len(cosine))
    column = torch.arange(len(query), device=query.device) - (lengths.cumsum(0) - lengths)[query]
    score = cosine[query, other]
    wanted = cosine.new_zeros(len(cosine), int(lengths.max()))
    wanted[query, column] = -score
    descending = _sorted_rows(-cosine)
    before = torch.searchsorted(descending, wanted)[query, column]
    upto = torch.searchsorted(descending, wanted, right=True)[query, column]
    index = torch.arange(cosine.shape[1], device=query.device)
    for tied in (upto - before > 1).nonzero()[:, 0].split(rows_at_a_time(cosine.shape[1])):
        equal = cosine[query[tied]] == score[tied].unsqueeze(1)
        before[tied] += (equal & (index < other[tied].unsqueeze(1))).sum(dim=1)
    return before + 1


def _sorted_rows(values: Tensor) -> Tensor:
    """Each row from low to high. On the CPU by NumPy, whose sort is vectorised: 7 times faster than torch's."""
    return torch.from_numpy(np.sort(values.numpy(), axis=1)) if values.device.type == "cpu" else values.sort(dim=1)[0]


def checked_samples(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """embeddings [n, d] -> ``checked_rows`` of them; labels [n] integers -> the same, on their device."""
    unit = checked_rows("embeddings", embeddings)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels is of type {kind}; it should be a tensor [{len(unit)}] of integers")
    if labels.shape != (len(unit),):
        raise ValueError(f"labels has shape {list(labels.shape)}; it should be [{len(unit)}], one label an embedding")
    return unit, labels.to(unit.device)


def checked_rows(name: str, rows: Tensor) -> Tensor:
    """rows [n, d], floating point and finite -> the same of length 1 (zeros stay zeros), in float32 at least."""
    if not isinstance(rows, Tensor) or not rows.is_floating_point():
        kind = rows.dtype if isinstance(rows, Tensor) else type(rows).__name__
        raise TypeError(f"{name} is of type {kind}; it should be a floating-point tensor [n, d]")
    if rows.dim() != 2:
        raise ValueError(f"{name} has shape {list(rows.shape)}; it should be [n, d]")
    rows = rows.detach()
    if not torch.isfinite(rows).all():
        raise ValueError(f"{name} holds NaN or infinite values; all of them should be finite")
    return F.normalize(rows if rows.dtype == torch.float64 else rows.float())


def rows_at_a_time(columns: int) -> int:
    """How many rows of that many cosines to hold at once."""
    return max(1, CELLS // max(1, columns))


def _queries(unit: Tensor, labels: Tensor, chunk: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """A chunk of queries at a time: cosine [q, n] (-inf to itself), mates [q, n] bool (not itself)."""
    chunk = rows_at_a_time(len(labels)) if chunk is None else check_positive_int("chunk", chunk)
    _, number, counts = labels.unique(return_inverse=True, return_counts=True)
    asked = (counts[number] > 1).nonzero()[:, 0]
    for rows in asked.split(chunk) if len(asked) else ():
        cosine = unit[rows] @ unit.T
        mates = labels[rows].unsqueeze(1) == labels
        itself = (torch.arange(len(rows), device=unit.device), rows)
        cosine[itself], mates[itself] = -torch.inf, False
        yield cosine, mates


def _first_match(cosine: Tensor, mates: Tensor) -> Tensor:
    """cosine, mates [q, n] -> [q] int64, the rank (from 1) of the first mate: found by counting, without a sort."""
    best, where = cosine.masked_fill(~mates, -torch.inf).max(dim=1)  # the first of equals
    ranks = 1 + (cosine > best.unsqueeze(1)).sum(dim=1)
    query, other = (cosine == best.unsqueeze(1)).nonzero(as_tuple=True)
    return ranks.index_add(0, query, (other < where[query]).long())
