"""annsoftmax::rerank — order candidates by exact cosine (C++ in rerank.cpp).

Twins: ``rerank_torch``; the last part of ``annsoftmax_ref.reference.search``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels_inline.checks import check, check_rows
from kernels_inline.dispatch import call
from kernels_inline.kernel_op import kernel_op

CHUNK = 1 << 18  # candidates that ``rerank_torch`` looks at in one go


@kernel_op("rerank", needs=("rerank",))
def rerank(queries: Tensor, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """queries [B, d] f32 of length 1, rows [N, d] f32 or bf16, ids [B, k] i64 (-1: none) -> ids, cosines [B, k].

    Best first, ties to the lower id, -1 with cosine -inf last.
    """
    check("queries", queries, torch.float32, ("B", "d"))
    kind = check_rows("rows", rows, ("N", queries.shape[1]))
    check("ids", ids, torch.int64, (len(queries), "k"))
    # On a GPU the values are not looked at, as the answer would have to be waited for.
    if ids.numel() and not ids.is_cuda and (int(ids.max()) >= len(rows) or int(ids.min()) < -1):
        raise ValueError(
            f"ids holds values from {int(ids.min())} to {int(ids.max())}; they should be from -1 to {len(rows) - 1}"
        )
    ordered, cosines = torch.empty_like(ids), queries.new_empty(ids.shape)
    call("rerank", queries, rows, kind, ids, len(ids), ids.shape[1], queries.shape[1], ordered, cosines)
    return ordered, cosines


@rerank.register_fake
def _(queries: Tensor, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(ids), queries.new_empty(ids.shape)


def rerank_torch(queries: Tensor, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """``rerank`` in plain torch, for any kind of float; cosines are of the queries' kind."""
    step = max(1, CHUNK // max(1, ids.shape[1]))
    cosines = torch.cat(
        [
            torch.einsum("bd,bkd->bk", q, F.normalize(rows[i.clamp_min(0)].to(q.dtype), dim=-1))
            for q, i in zip(queries.split(step), ids.split(step), strict=True)
        ]
    )
    missing = ids < 0
    cosines = cosines.masked_fill(missing, -torch.inf)
    # Stable over ids in ascending order, so that equal cosines come lower id first.
    by_id = ids.masked_fill(missing, len(rows)).argsort(dim=1)
    order = by_id.gather(1, cosines.gather(1, by_id).argsort(dim=1, descending=True, stable=True))
    return ids.gather(1, order), cosines.gather(1, order)
