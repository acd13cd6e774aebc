"""Search in the codes of all classes, without lists: ``query_planes`` and ``flat_map``.

A query is 1 or 2 bit planes (``query_planes``), and its score for a class is an integer from 0 to
``most = dim (2^planes - 1)``: the number of bits in which plane p and the class's code agree, times 2^p, over all p.
``flat_thresholds`` (flat_threshold_ops.py) finds the score that about k of all classes reach. ``flat_map`` then scores
all classes for groups of queries, and keeps one byte for each group and class:

    margin(g, c) = max over the queries q of group g of score(q, c) - threshold[q]
    map[g, c]    = clamp(64 + floor(margin(g, c) / 2^shift), 0, 254); 0 for a group without queries

A byte of 64 or more: the class is among the nearest of at least one of the group's samples. 255 stays free for labels.
The kernel is in ``cuda/flat.cu``, and there is none in C++; ``flat_map_torch`` does the same in plain torch. NumPy
twin: ``annsoftmax_ref.reference.flat``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels_inline.bits import pack_bits, popcount, words_for
from kernels_inline.checks import check
from kernels_inline.dispatch import call
from kernels_inline.kernel_op import kernel_op

LEVEL, HIGHEST = 64, 254
NONE = -(1 << 29)  # the margin where there is no query
CHUNK = 1 << 22  # words that the torch twins compare at once
# Of 4 equal steps the best for normal numbers, in units of their standard deviation (Max 1960, table II).
STEP = 0.9957


def query_planes(queries: Tensor, count: int) -> Tensor:
    """queries [B, d], rotated as the codes were -> bit planes [B, count, W] int64, plane p of weight 2^p.

    count 1: the signs, q_j > 0. count 2: q_j is rounded to one of 4 levels, q_j ~ step (u_j - 1.5) with
    u_j = floor(q_j / step) + 2 in 0..3 and step = 0.9957 times the root mean square of the query, and u_j is written in
    bits. Then the score s stands for <q, signs> ~ step (s - 1.5 d); for queries of one length all steps are the same,
    so that their margins compare.
    """
    if count not in (1, 2) or queries.dim() != 2:
        raise ValueError(
            f"count is {count} and queries has shape {list(queries.shape)}; they should be 1 or 2 and [B, d]"
        )
    if count == 1:
        bits = (queries > 0).unsqueeze(1)
    else:
        step = STEP * queries.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-30)
        levels = ((queries / step).floor() + 2).clamp(0, 3).to(torch.int64)
        bits = (levels.unsqueeze(1) >> torch.arange(2, device=queries.device).view(1, -1, 1)) & 1
    return pack_bits(bits)


@kernel_op(
    "flat_map",
    needs=("flat_map",),
    schema="(Tensor planes, Tensor thresholds, Tensor codes, Tensor starts, int dim, int shift=0) -> Tensor",
)
def flat_map(planes, thresholds, codes, starts, dim, shift=0):
    """The byte of every class for every group of queries (see above).

    planes [B, P, W] int64, P = 1 or 2, group after group; thresholds [B] int32, from -2^28 to 2^28; codes [N, W] int64;
    starts [G + 1] int64: group g has the queries starts[g] to starts[g + 1] - 1. dim: the number of bits in use, 0 in
    both where unused. shift: margins are divided by 2^shift. On a GPU the values in starts are not looked at.
    -> [G, N] uint8
    """
    _check_map(planes, thresholds, codes, starts, dim, shift)
    (batch, count, words), groups = planes.shape, len(starts) - 1
    found = planes.new_empty(groups, len(codes), dtype=torch.uint8)
    call(
        "flat_map", planes, thresholds, codes, starts, batch, groups, count, words, len(codes),
        dim * (2**count - 1), shift, found,
    )  # fmt: skip
    return found


@flat_map.register_fake
def _(planes, thresholds, codes, starts, dim, shift=0):
    return planes.new_empty(starts.shape[0] - 1, codes.shape[0], dtype=torch.uint8)


def flat_map_torch(planes, thresholds, codes, starts, dim: int, shift: int = 0) -> Tensor:
    """``flat_map`` in plain torch."""
    _check_map(planes, thresholds, codes, starts, dim, shift)
    margins = planes.new_full((len(starts) - 1, len(codes)), NONE)
    ends = starts.tolist()
    for group, (begin, end) in enumerate(zip(ends, ends[1:], strict=False)):
        own = thresholds[begin:end].to(torch.int64).unsqueeze(1)
        step = rows_at_once(planes, len(codes))
        for part, part_own in zip(planes[begin:end].split(step), own.split(step), strict=True):
            if len(part):
                margins[group] = margins[group].maximum((scores(part, codes, dim) - part_own).amax(dim=0))
    return (LEVEL + (margins >> shift)).clamp(0, HIGHEST).to(torch.uint8)


def scores(planes: Tensor, codes: Tensor, dim: int) -> Tensor:
    """planes [b, P, W], codes [n, W] -> [b, n] int64."""
    differing = popcount(planes.unsqueeze(1) ^ codes[None, :, None]).sum(dim=-1)  # [b, n, P]
    weights = 1 << torch.arange(planes.shape[1], device=planes.device)
    return ((dim - differing) * weights).sum(dim=-1)


def rows_at_once(planes: Tensor, classes: int) -> int:
    return max(1, CHUNK // max(1, classes * planes.shape[1] * planes.shape[2]))


def in_parts(planes: Tensor, classes: int) -> tuple[Tensor, ...]:
    return planes.split(rows_at_once(planes, classes)) if len(planes) else ()


def _check_map(planes, thresholds, codes, starts, dim: int, shift: int) -> None:
    check_codes(planes, codes, dim)
    check("thresholds", thresholds, torch.int32, (len(planes),))
    check("starts", starts, torch.int64, (max(2, len(starts)),))
    if not 0 <= shift <= 16:
        raise ValueError(f"shift is {shift}; it should be from 0 to 16")
    if starts.device.type == "cpu" and (starts[0] != 0 or starts[-1] != len(planes) or (starts.diff() < 0).any()):
        raise ValueError(f"starts is {starts.tolist()}; it should rise from 0 to {len(planes)}, the number of queries")


def check_codes(planes: Tensor, codes: Tensor, dim: int) -> None:
    """ValueError unless these are planes [B, 1 or 2, W] of queries and codes [N >= 1, W] of ``dim`` bits."""
    if dim < 1:
        raise ValueError(f"dim is {dim}; it should be at least 1")
    two = planes.dim() == 3 and planes.shape[1] == 2
    check("planes", planes, torch.int64, ("B", 2 if two else 1, words_for(dim)))
    check("codes", codes, torch.int64, (max(1, len(codes)), words_for(dim)))
