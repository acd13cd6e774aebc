"""Rows as the index sees them: ``encode`` (their sign codes) and ``assign`` (their nearest lists).

The kernels are in ``encode.cpp``. Matrix products (the rotation, rows times centroids) are left to torch, whose
library has the fastest ones; the kernels do what is around them. Twins in plain torch: ``encode`` and ``nearest_list``
of ``annsoftmax_ref.index.IVFBinaryIndex``.
"""

from __future__ import annotations

import torch

from kernels_inline.bits import words_for
from kernels_inline.checks import DEVICES, check, check_rows
from kernels_inline.dispatch import call
from kernels_inline.kernel_op import kernel_op

ERRORS = {1: "ids holds a row number that is not in 0..N-1", 2: "lists holds a list number that is not in 0..nlist-1"}
CHUNK = 1 << 14  # rows whose product with the rotation is held at once
SCORES = 1 << 21  # scores of rows against centroids that are held at once: 8 MB


@kernel_op(
    "encode",
    needs=("sign_codes", "gather_unit_rows"),
    device_types=DEVICES,
    schema="(Tensor rows, Tensor ids, Tensor? rotation=None, Tensor? centroids=None, Tensor? lists=None) -> Tensor",
)
def encode(rows, ids, rotation=None, centroids=None, lists=None):
    """Sign codes [n, ceil(d / 64)] int64 of rows ids [n] of rows [N, d]: bit j is bit j % 64 of word j // 64.

    rows are in float32 or bfloat16. A row is normalised, its list's centroid is taken off (centroids [nlist, d] with
    lists [n]), it is multiplied by rotation [d, d], and bit j says whether number j is above 0. Without centroids the
    length of a row cannot change a sign, so it is not looked at. Numbers within rounding of 0 can have another sign
    than in plain torch. Raises ValueError, and BuildError where nothing can be built.
    """
    half = _check_encode(rows, ids, rotation, centroids, lists)
    words = words_for(rows.shape[1])
    codes = ids.new_empty(len(ids), words)
    nlist = 0 if centroids is None else len(centroids)
    if rotation is None:
        _run("sign_codes", rows, half, ids, centroids, lists, len(ids), *rows.shape, nlist, words, codes)
        return codes
    for start in range(0, len(ids), CHUNK):
        part, part_lists = ids[start : start + CHUNK], None if lists is None else lists[start : start + CHUNK]
        unit = rows.new_empty(len(part), rows.shape[1], dtype=torch.float32)
        _run("gather_unit_rows", rows, half, part, centroids, part_lists, len(part), *rows.shape, nlist, unit)
        rotated, out = unit @ rotation, codes[start : start + CHUNK]
        _run("sign_codes", rotated, False, None, None, None, len(part), *rotated.shape, 0, words, out)
    return codes


@kernel_op("assign", needs=("row_argmax",), device_types=DEVICES, schema="(Tensor rows, Tensor centroids) -> Tensor")
def assign(rows, centroids):
    """rows [n, d], centroids [nlist, d] float32 -> the list of the largest dot product [n], the lowest of equals.

    The scores are made in blocks of 8 MB; plain torch holds all [n, nlist], and its argmax takes longer.
    """
    check("rows", rows, torch.float32, ("n", "d"))
    check("centroids", centroids, torch.float32, (max(1, len(centroids)), rows.shape[1]))
    lists = rows.new_empty(len(rows), dtype=torch.int64)
    step = max(64, SCORES // len(centroids))
    scores = rows.new_empty(min(step, len(rows)), len(centroids))
    transposed = centroids.T
    for start in range(0, len(rows), step):
        part, out = rows[start : start + step], lists[start : start + step]
        torch.mm(part, transposed, out=scores[: len(part)])
        _run("row_argmax", scores, len(part), len(centroids), out)
    return lists


@encode.register_fake
def _(rows, ids, rotation=None, centroids=None, lists=None):
    return ids.new_empty(ids.shape[0], words_for(rows.shape[1]))


@assign.register_fake
def _(rows, centroids):
    return rows.new_empty(rows.shape[0], dtype=torch.int64)


def _run(launcher: str, *arguments) -> None:
    code = call(launcher, *arguments)
    if code:
        raise ValueError(ERRORS[code])


def _check_encode(rows, ids, rotation, centroids, lists) -> int:
    """The kind of rows."""
    kind = check_rows("rows", rows, ("N", "d"))
    check("ids", ids, torch.int64, ("n",))
    dim = rows.shape[1]
    if rotation is not None:
        check("rotation", rotation, torch.float32, (dim, dim))
    if (centroids is None) != (lists is None):
        raise ValueError("one of centroids and lists is None; both should be given, or neither")
    if centroids is not None:
        check("centroids", centroids, torch.float32, ("nlist", dim))
        check("lists", lists, torch.int64, (len(ids),))
    return kind
