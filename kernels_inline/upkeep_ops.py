"""Upkeep of the index: ``encode`` (sign codes), ``assign`` (nearest lists), ``kmeans_sums``.

The kernels are in ``upkeep.cpp``. Matrix products (the rotation, rows times centroids) are left to torch, whose
library has the fastest ones; the kernels do what is around them. The functions ending in ``_torch`` do the same in
plain torch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels_inline import build
from kernels_inline.bits import pack_bits
from kernels_inline.checks import DEVICES
from kernels_inline.dispatch import needs

ERRORS = {1: "ids holds a row number that is not in 0..N-1", 2: "lists holds a list number that is not in 0..nlist-1"}
CHUNK = 1 << 14  # rows whose product with the rotation is held at once
SCORES = 1 << 21  # scores of rows against centroids that are held at once: 8 MB


@needs("sign_codes", "gather_unit_rows")
@torch.library.custom_op(
    "annsoftmax::encode",
    mutates_args=(),
    device_types=DEVICES,
    schema="(Tensor rows, Tensor ids, Tensor? rotation=None, Tensor? centroids=None, Tensor? lists=None) -> Tensor",
)
def encode(rows, ids, rotation=None, centroids=None, lists=None):
    """Sign codes [n, ceil(d / 64)] int64 of rows ids [n] of rows [N, d]: bit j is bit j % 64 of word j // 64.

    A row is normalised, its list's centroid is taken off (centroids [nlist, d] with lists [n]), it is multiplied by
    rotation [d, d], and bit j says whether number j is above 0. Without centroids the length of a row cannot change
    a sign, so it is not looked at. Numbers within rounding of 0 can have another sign than in plain torch.
    Raises ValueError or TypeError, and build.BuildError where nothing can be built.
    """
    _check_encode(rows, ids, rotation, centroids, lists)
    words = -(-rows.shape[1] // 64)
    codes = ids.new_empty(len(ids), words)
    nlist = 0 if centroids is None else len(centroids)
    if rotation is None:
        _call("sign_codes", rows, ids, centroids, lists, len(ids), *rows.shape, nlist, words, codes)
        return codes
    for start in range(0, len(ids), CHUNK):
        part, part_lists = ids[start : start + CHUNK], None if lists is None else lists[start : start + CHUNK]
        unit = rows.new_empty(len(part), rows.shape[1])
        _call("gather_unit_rows", rows, part, centroids, part_lists, len(part), *rows.shape, nlist, unit)
        rotated, out = unit @ rotation, codes[start : start + CHUNK]
        _call("sign_codes", rotated, None, None, None, len(part), *rotated.shape, 0, words, out)
    return codes


@needs("row_argmax")
@torch.library.custom_op(
    "annsoftmax::assign", mutates_args=(), device_types=DEVICES, schema="(Tensor rows, Tensor centroids) -> Tensor"
)
def assign(rows, centroids):
    """rows [n, d], centroids [nlist, d] float32 -> the list of the largest dot product [n], the lowest of equals.

    The scores are made in blocks of 8 MB; plain torch holds all [n, nlist], and its argmax takes longer.
    """
    _check_floats(rows=rows, centroids=centroids)
    if rows.shape[1] != centroids.shape[1] or not len(centroids):
        raise ValueError(f"centroids has shape {list(centroids.shape)}; it should be [nlist >= 1, {rows.shape[1]}]")
    lists = rows.new_empty(len(rows), dtype=torch.int64)
    step = max(64, SCORES // len(centroids))
    scores = rows.new_empty(min(step, len(rows)), len(centroids))
    transposed = centroids.T
    for start in range(0, len(rows), step):
        part, out = rows[start : start + step], lists[start : start + step]
        torch.mm(part, transposed, out=scores[: len(part)])
        _call("row_argmax", scores, len(part), len(centroids), out)
    return lists


@needs("list_sums")
@torch.library.custom_op(
    "annsoftmax::kmeans_sums",
    mutates_args=(),
    device_types=DEVICES,
    schema="(Tensor rows, Tensor lists, int nlist) -> (Tensor, Tensor)",
)
def kmeans_sums(rows, lists, nlist):
    """rows [n, d] float32, lists [n] int64 -> sums [nlist, d] float32 and counts [nlist] int64 of each list's rows.

    Rows are added in ascending order, whatever the number of threads.
    """
    _check_floats(rows=rows)
    _check_numbers(len(rows), lists=lists)
    if nlist < 1:
        raise ValueError(f"nlist is {nlist}; it should be at least 1")
    sums, counts = rows.new_empty(nlist, rows.shape[1]), lists.new_empty(nlist)
    _call("list_sums", rows, lists, *rows.shape, nlist, sums, counts)
    return sums, counts


@encode.register_fake
def _(rows, ids, rotation=None, centroids=None, lists=None):
    return ids.new_empty(ids.shape[0], -(-rows.shape[1] // 64))


@assign.register_fake
def _(rows, centroids):
    return rows.new_empty(rows.shape[0], dtype=torch.int64)


@kmeans_sums.register_fake
def _(rows, lists, nlist):
    return rows.new_empty(nlist, rows.shape[1]), lists.new_empty(nlist)


def encode_torch(rows, ids, rotation=None, centroids=None, lists=None) -> Tensor:
    """``encode`` in plain torch."""
    unit = F.normalize(rows[ids], dim=1)
    if centroids is not None:
        unit = unit - centroids[lists]
    if rotation is not None:
        unit = unit @ rotation
    return pack_bits(unit > 0)


def assign_torch(rows: Tensor, centroids: Tensor) -> Tensor:
    """``assign`` in plain torch."""
    return (rows @ centroids.T).argmax(dim=1)


def kmeans_sums_torch(rows: Tensor, lists: Tensor, nlist: int) -> tuple[Tensor, Tensor]:
    """``kmeans_sums`` in plain torch."""
    sums = rows.new_zeros(nlist, rows.shape[1]).index_add_(0, lists, rows)
    return sums, torch.bincount(lists, minlength=nlist)


def _call(name: str, *arguments) -> None:
    code = build.call(name, *arguments)
    if code:
        raise ValueError(ERRORS[code])


def _check_encode(rows, ids, rotation, centroids, lists) -> None:
    _check_floats(rows=rows, **{k: v for k, v in (("rotation", rotation), ("centroids", centroids)) if v is not None})
    _check_numbers(len(ids), ids=ids)
    dim = rows.shape[1]
    if rotation is not None and rotation.shape != (dim, dim):
        raise ValueError(f"rotation has shape {list(rotation.shape)}; it should be [{dim}, {dim}]")
    if (centroids is None) != (lists is None):
        raise ValueError("one of centroids and lists is None; both should be given, or neither")
    if centroids is not None:
        _check_numbers(len(ids), lists=lists)
        if centroids.shape[1] != dim:
            raise ValueError(f"centroids has shape {list(centroids.shape)}; it should be [nlist, {dim}]")


def _check_floats(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or tensor.dim() != 2 or tensor.device.type not in DEVICES:
            raise TypeError(
                f"{name} is {tensor.dtype} {list(tensor.shape)} on {tensor.device}; "
                "it should be float32 with 2 axes on the CPU or a CUDA device"
            )
        if not tensor.is_contiguous():
            raise ValueError(f"{name} has strides {tensor.stride()}; it should be contiguous")


def _check_numbers(count: int, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype != torch.int64 or tensor.device.type not in DEVICES:
            wanted = "int64 on the CPU or a CUDA device"
            raise TypeError(f"{name} is {tensor.dtype} on {tensor.device}; it should be {wanted}")
        if tensor.shape != (count,) or not tensor.is_contiguous():
            raise ValueError(f"{name} has shape {list(tensor.shape)}; it should be [{count}] and contiguous")
