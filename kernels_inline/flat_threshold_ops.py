"""Thresholds of a flat search: ``flat_thresholds``, the score that about k of all classes reach, from a sample of them.

What a score is stands in ``flat_ops``. The kernel is in ``cuda/flat_threshold.cu``, and there is none in C++;
``flat_thresholds_torch`` does the same in plain torch. NumPy twin: ``annsoftmax_ref.reference.flat``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels_inline.dispatch import call
from kernels_inline.flat_ops import check_codes, in_parts, scores
from kernels_inline.kernel_op import kernel_op


@kernel_op(
    "flat_thresholds",
    needs=("flat_thresholds",),
    schema="(Tensor planes, Tensor codes, int dim, int k, int stride=8, int first=0) -> Tensor",
)
def flat_thresholds(planes, codes, dim, k, stride=8, first=0):
    """For each query the score that about k of the N classes reach, from the classes first, first + stride, ...

    planes [B, P, W] int64, P = 1 or 2; codes [N, W] int64; dim: the number of bits in use, 0 in both where unused.
    With r = ceil(k / stride): the r-th largest score in the sample, 0 if it has fewer than r classes. -> [B] int32
    """
    _check_thresholds(planes, codes, dim, k, stride, first)
    batch, count, words = planes.shape
    thresholds = planes.new_empty(batch, dtype=torch.int32)
    most = dim * (2**count - 1)
    call(
        "flat_thresholds", planes, codes, batch, count, words, len(codes), most, k, stride, first, thresholds
    )  # fmt: skip
    return thresholds


@flat_thresholds.register_fake
def _(planes, codes, dim, k, stride=8, first=0):
    return planes.new_empty(planes.shape[0], dtype=torch.int32)


def flat_thresholds_torch(planes, codes, dim: int, k: int, stride: int = 8, first: int = 0) -> Tensor:
    """``flat_thresholds`` in plain torch."""
    _check_thresholds(planes, codes, dim, k, stride, first)
    sample, rank = codes[first::stride], -(-k // stride)
    if rank > len(sample):
        return planes.new_zeros(len(planes), dtype=torch.int32)
    parts = [scores(part, sample, dim).topk(rank, dim=1).values[:, -1] for part in in_parts(planes, len(sample))]
    return torch.cat(parts).to(torch.int32) if parts else planes.new_zeros(0, dtype=torch.int32)


def _check_thresholds(planes, codes, dim: int, k: int, stride: int, first: int) -> None:
    check_codes(planes, codes, dim)
    if k < 1 or stride < 1:
        raise ValueError(f"k is {k} and stride is {stride}; both should be at least 1")
    if not 0 <= first < min(stride, len(codes)):
        raise ValueError(f"first is {first}; it should be from 0 to {min(stride, len(codes)) - 1}")
