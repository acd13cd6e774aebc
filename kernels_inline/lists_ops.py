"""The inverted lists: ``write_codes_`` (new codes of some rows, by id and in their lists), ``kmeans_sums``, and
``far_offsets`` (what a list counts for that stands for its classes left out).

The kernels are in ``lists.cpp``. Twins in plain torch: ``annsoftmax_ref.lists.InvertedLists.write_codes``,
``index_add_`` with ``bincount``, ``annsoftmax_ref.beyond.far.far_classes``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels_inline.checks import DEVICES, check
from kernels_inline.dispatch import call
from kernels_inline.kernel_op import kernel_op


@kernel_op("write_codes_", needs=("write_codes",), mutates=("codes", "slot_codes", "written"))
def write_codes_(
    codes: Tensor,
    slot_codes: Tensor,
    written: Tensor,
    assignment: Tensor,
    place: Tensor,
    ids: Tensor,
    fresh: Tensor,
    clock: Tensor,
) -> None:
    """codes [N, W] i64, slot_codes [nlist, W, capacity] i64, written [N] i32; assignment, place [N] i64: where each
    row stands; ids [n] distinct, fresh [n, W]: their new codes; clock [] i32: what to note in ``written``."""
    check("codes", codes, torch.int64, ("N", "W"))
    n, words = codes.shape
    check("slot_codes", slot_codes, torch.int64, ("nlist", words, "capacity"))
    check("written", written, torch.int32, (n,))
    check("assignment", assignment, torch.int64, (n,))
    check("place", place, torch.int64, (n,))
    check("ids", ids, torch.int64, ("n",))
    check("fresh", fresh, torch.int64, (len(ids), words))
    check("clock", clock, torch.int32, ())
    if call(
        "write_codes", codes, slot_codes, written, assignment, place, ids, fresh, len(ids), n, words,
        slot_codes.shape[2], clock,
    ):  # fmt: skip
        raise ValueError(f"ids holds a row that is not in 0..{n - 1}")


@kernel_op(
    "kmeans_sums",
    needs=("list_sums",),
    device_types=DEVICES,
    schema="(Tensor rows, Tensor lists, int nlist) -> (Tensor, Tensor)",
)
def kmeans_sums(rows, lists, nlist):
    """rows [n, d] float32, lists [n] int64 -> sums [nlist, d] float32 and counts [nlist] int64 of each list's rows.

    Rows are added in ascending order, whatever the number of threads.
    """
    check("rows", rows, torch.float32, ("n", "d"))
    check("lists", lists, torch.int64, (len(rows),))
    if nlist < 1:
        raise ValueError(f"nlist is {nlist}; it should be at least 1")
    sums, counts = rows.new_empty(nlist, rows.shape[1]), lists.new_empty(nlist)
    if call("list_sums", rows, lists, *rows.shape, nlist, sums, counts):
        raise ValueError(f"lists holds a list number that is not in 0..{nlist - 1}")
    return sums, counts


@kernel_op(
    "far_offsets",
    needs=("far_offsets",),
    device_types=("cpu",),
    schema="(Tensor classes, Tensor assignment, Tensor sizes, Tensor means, float scale) -> Tensor",
)
def far_offsets(classes, assignment, sizes, means, scale):
    """classes [G, A], assignment [N], sizes [L] int64, means [L, d] float32 -> offsets [G, L] float32.

    log(classes of list l that set g leaves out) + scale^2 (1 - |means_l|^2) / 2 d.
    """
    check("classes", classes, torch.int64, ("G", "A"))
    check("assignment", assignment, torch.int64, ("N",))
    check("sizes", sizes, torch.int64, ("L",))
    check("means", means, torch.float32, (len(sizes), "d"))
    offsets = means.new_empty(len(classes), len(sizes))
    code = call(
        "far_offsets", classes, assignment, sizes, means, *classes.shape, len(assignment), *means.shape, float(scale),
        offsets,
    )  # fmt: skip
    if code:
        name, most = ("classes", len(assignment)) if code == 1 else ("assignment", len(sizes))
        raise ValueError(f"{name} holds a number that is not in 0..{most - 1}")
    return offsets


@write_codes_.register_fake
def _(codes, slot_codes, written, assignment, place, ids, fresh, clock) -> None:
    return None


@kmeans_sums.register_fake
def _(rows, lists, nlist):
    return rows.new_empty(nlist, rows.shape[1]), lists.new_empty(nlist)


@far_offsets.register_fake
def _(classes, assignment, sizes, means, scale):
    return means.new_empty(classes.shape[0], sizes.shape[0])
