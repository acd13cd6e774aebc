"""Thresholds of a flat search: ``flat_thresholds``, the score that about k of all classes reach, from a sample of them.

What a score is stands in ``flat_ops``. The kernel is in ``cuda/flat_threshold.cu``, and there is none in C++;
``flat_thresholds_torch`` does the same in plain torch. NumPy twin: ``annsoftmax_ref.reference.flat``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels_inline.checks import check
from kernels_inline.dispatch import call
from kernels_inline.flat_ops import check_codes, in_parts, scores
from kernels_inline.kernel_op import kernel_op


@kernel_op(
    "flat_thresholds",
    needs=("flat_thresholds",),
    schema="(Tensor planes, Tensor codes, int dim, int k, int stride, Tensor first) -> Tensor",
)
def flat_thresholds(planes, codes, dim, k, stride, first):
    """For each query the score that about k of the N classes reach, from the classes first, first + stride, ...

    planes [B, P, W] int64, P = 1 or 2; codes [N, W] int64; dim: the number of bits in use, 0 in both where unused;
    first [] int64, below stride and N (on a GPU its value is not looked at).
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
def _(planes, codes, dim, k, stride, first):
    return planes.new_empty(planes.shape[0], dtype=torch.int32)


def flat_thresholds_torch(planes, codes, dim: int, k: int, stride: int, first: Tensor) -> Tensor:
    """``flat_thresholds`` in plain torch."""
    _check_thresholds(planes, codes, dim, k, stride, first)
    places = torch.arange(0, len(codes), stride, device=codes.device) + first
    sample, outside = codes[places.clamp_max(len(codes) - 1)], places >= len(codes)
    rank = -(-k // stride)
    if rank > len(sample):
        return planes.new_zeros(len(planes), dtype=torch.int32)
    parts = [
        scores(part, sample, dim).masked_fill_(outside, 0).topk(rank, dim=1).values[:, -1]
        for part in in_parts(planes, len(sample))
    ]
    return torch.cat(parts).to(torch.int32) if parts else planes.new_zeros(0, dtype=torch.int32)


def _check_thresholds(planes, codes, dim: int, k: int, stride: int, first: Tensor) -> None:
    check_codes(planes, codes, dim)
    if k < 1 or stride < 1:
        raise ValueError(f"k is {k} and stride is {stride}; both should be at least 1")
    check("first", first, torch.int64, ())
    if not first.is_cuda and not 0 <= first < min(stride, len(codes)):
        raise ValueError(f"first is {int(first)}; it should be from 0 to {min(stride, len(codes)) - 1}")
