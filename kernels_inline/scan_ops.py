"""Scan of inverted lists of sign codes: ``ivf_scan`` (Hamming) and ``ivf_scan_asymmetric`` (4-bit queries).

Both are exact for the distance they state. The kernel is ``scan.cpp``; the functions ending in ``_torch`` do the
same in plain torch and return the same tensors, bit for bit.

An asymmetric score compares the signs b in {-1, 1} of a class with the query itself, not with its signs (RaBitQ,
Gao and Long 2024). The query is rounded to 16 levels that lie symmetrically about 0,

    q_j ~ step (u_j - 7.5),   u_j = floor(q_j / step) + 8 in 0..15,   step = max|q| / 8,

and with u_j written in bits (plane p of bit p) the score is a weighted Hamming distance,

    sum_j b_j step (u_j - 7.5) = step (7.5 d - D),   D = sum_p 2^p hamming(plane_p, code).

So one kernel serves both. The scores are exact for the rounded query, whose entries are off by at most step / 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels_inline.bits import pack_bits_at_once, popcount, words_for
from kernels_inline.checks import DEVICES, check
from kernels_inline.dispatch import call
from kernels_inline.kernel_op import kernel_op

PLANES = 4
ERRORS = {
    1: "probed holds a list number that is not in 0..nlist-1",
    2: "ends holds a number that is not in 0..capacity",
    3: "slots holds a class id that is not below num_rows",
}


@kernel_op(
    "ivf_scan",
    needs=("ivf_scan",),
    device_types=DEVICES,
    schema="(Tensor query_codes, Tensor probed, Tensor slots, Tensor slot_codes, Tensor ends, int k, int num_rows,"
    " int dim) -> (Tensor, Tensor)",
)
def ivf_scan(query_codes, probed, slots, slot_codes, ends, k, num_rows, dim):
    """The k smallest (Hamming distance, id) in the lists that each query probes, in that order.

    query_codes [B, Q, W] int64: sign codes, Q = 1, or nprobe where a query has a code of its own for each list.
    probed [B, nprobe]: the lists, each at most once a query. slots [nlist, capacity]: class ids, -1 where free.
    slot_codes [nlist, W, capacity]: the codes of these classes, word-major (a capacity that is a multiple of 8 keeps
    vector loads within cache lines: a quarter faster). ends [nlist]: one past the last slot
    used. num_rows: ids are below it. dim: the number of bits in use.
    Returns ids [B, k] int64 and distances [B, k] int32; where there are fewer than k, -1 and dim + 1.
    Raises ValueError for shapes and types that do not fit, BuildError where nothing can be built.
    """
    query_codes, probed = query_codes.contiguous(), probed.contiguous()
    _check(probed, slots, slot_codes, ends, k, num_rows, dim)
    own = query_codes.dim() == 3 and query_codes.shape[1] == probed.shape[1]
    check("query_codes", query_codes, torch.int64, (len(probed), probed.shape[1] if own else 1, words_for(dim)))
    return _scan(query_codes.unsqueeze(2), probed, slots, slot_codes, ends, k, num_rows, most=dim)


@kernel_op(
    "ivf_scan_asymmetric",
    needs=("ivf_scan",),
    device_types=DEVICES,
    schema="(Tensor queries, Tensor probed, Tensor slots, Tensor slot_codes, Tensor ends, int k, int num_rows)"
    " -> (Tensor, Tensor)",
)
def ivf_scan_asymmetric(queries, probed, slots, slot_codes, ends, k, num_rows):
    """The k classes of largest sum_j q_j sign_j in the lists that each query probes; equal scores by lower id.

    queries [B, d] float32, rotated as the codes were (and scores compare only if codes are not centred by list);
    the others as in ``ivf_scan``. Returns ids [B, k] int64 (-1 missing) and scores [B, k] float32 (-inf missing).
    """
    queries, probed = queries.contiguous(), probed.contiguous()
    _check(probed, slots, slot_codes, ends, k, num_rows, queries.shape[-1])
    check("queries", queries, torch.float32, (len(probed), "d"))
    planes, step = quantise_queries(queries)
    dim = queries.shape[1]
    ids, distances = _scan(planes, probed, slots, slot_codes, ends, k, num_rows, most=15 * dim)
    return ids, _scores(ids, distances, step, dim)


def quantise_queries(queries: Tensor) -> tuple[Tensor, Tensor]:
    """queries [B, d] -> bit planes [B, 1, 4, W] int64 and step [B, 1]; queries ~ step * (u - 7.5)."""
    step = queries.abs().amax(dim=1, keepdim=True).clamp_min(1e-30) / 8
    levels = ((queries / step).floor() + 8).clamp(0, 15).to(torch.uint8)
    planes = torch.arange(PLANES, dtype=torch.uint8, device=queries.device)
    bits = (levels.unsqueeze(1) >> planes.view(1, -1, 1)) & 1
    return pack_bits_at_once(bits).unsqueeze(1), step


def _scores(ids: Tensor, distances: Tensor, step: Tensor, dim: int) -> Tensor:
    return (step * (7.5 * dim - distances)).masked_fill(ids < 0, -torch.inf)


def _scan(planes: Tensor, probed: Tensor, slots, slot_codes, ends, k: int, num_rows: int, most: int):
    batch, per_query, count, words = planes.shape
    ids = planes.new_empty(batch, k)
    distances = planes.new_empty(batch, k, dtype=torch.int32)
    code = call(
        "ivf_scan", planes, probed, slots, slot_codes, ends,
        batch, per_query, probed.shape[1], count, *slots.shape, words, num_rows, most, k, ids, distances,
    )  # fmt: skip
    if code:
        raise ValueError(ERRORS[code])
    return ids, distances


def _check(probed, slots, slot_codes, ends, k, num_rows, dim):
    """One sentence on the first argument that does not fit."""
    check("probed", probed, torch.int64, ("B", "nprobe"))
    check("slots", slots, torch.int64, ("nlist", "capacity"))
    nlist, capacity = slots.shape
    check("slot_codes", slot_codes, torch.int64, (nlist, words_for(dim), capacity))
    check("ends", ends, torch.int64, (nlist,))
    if k < 1 or num_rows < 1:
        raise ValueError(f"k is {k} and num_rows is {num_rows}; both should be at least 1")


@ivf_scan.register_fake
def _(query_codes, probed, slots, slot_codes, ends, k, num_rows, dim):
    return probed.new_empty(probed.shape[0], k), probed.new_empty(probed.shape[0], k, dtype=torch.int32)


@ivf_scan_asymmetric.register_fake
def _(queries, probed, slots, slot_codes, ends, k, num_rows):
    return probed.new_empty(queries.shape[0], k), queries.new_empty(queries.shape[0], k)


def ivf_scan_torch(query_codes, probed, slots, slot_codes, ends, k: int, num_rows: int, dim: int):
    """``ivf_scan`` in plain torch; makes [B, nprobe, W, capacity] temporaries, so it is for tests and small sizes."""
    return _scan_torch(query_codes.unsqueeze(2), probed, slots, slot_codes, ends, k, num_rows, dim)


def ivf_scan_asymmetric_torch(queries, probed, slots, slot_codes, ends, k: int, num_rows: int):
    """``ivf_scan_asymmetric`` in plain torch."""
    planes, step = quantise_queries(queries)
    dim = queries.shape[1]
    ids, distances = _scan_torch(planes, probed, slots, slot_codes, ends, k, num_rows, 15 * dim)
    return ids, _scores(ids, distances, step, dim)


def _scan_torch(planes, probed, slots, slot_codes, ends, k, num_rows, most):
    codes = slot_codes[probed]  # [B, nprobe, W, capacity]
    found = sum(
        popcount(codes ^ planes[:, :, p].unsqueeze(-1)).sum(dim=2) << p for p in range(planes.shape[2])
    )  # [B, nprobe, capacity]
    ids = slots[probed]
    free = (ids < 0) | (torch.arange(slots.shape[1], device=slots.device) >= ends[probed].unsqueeze(-1))
    keys = torch.where(free, (most + 1) * (num_rows + 1) + num_rows, found * (num_rows + 1) + ids).flatten(1)
    keys = torch.nn.functional.pad(keys, (0, k), value=(most + 1) * (num_rows + 1) + num_rows)
    keys = keys.topk(k, dim=1, largest=False).values
    ids = keys % (num_rows + 1)
    return ids.masked_fill(ids == num_rows, -1), (keys // (num_rows + 1)).to(torch.int32)
