"""annsoftmax::write_codes_ — new codes of some rows, by id and in their lists (C++ in lists.cpp).

Twin: ``annsoftmax_ref.lists.InvertedLists.write_codes``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels_inline import build
from kernels_inline.checks import check
from kernels_inline.dispatch import needs


@needs("write_codes")
@torch.library.custom_op("annsoftmax::write_codes_", mutates_args=("codes", "slot_codes", "written"))
def write_codes_(
    codes: Tensor,
    slot_codes: Tensor,
    written: Tensor,
    assignment: Tensor,
    place: Tensor,
    ids: Tensor,
    fresh: Tensor,
    clock: int,
) -> None:
    """codes [N, W] i64, slot_codes [nlist, W, capacity] i64, written [N] i32; assignment, place [N] i64: where each
    row stands; ids [n] distinct, fresh [n, W]: the new codes of these rows; clock: what to note in ``written``."""
    n, words = len(codes), codes.shape[1]
    expected = {
        "codes": (codes, torch.int64, (n, words)),
        "slot_codes": (slot_codes, torch.int64, (slot_codes.shape[0], words, slot_codes.shape[-1])),
        "written": (written, torch.int32, (n,)),
        "assignment": (assignment, torch.int64, (n,)),
        "place": (place, torch.int64, (n,)),
        "ids": (ids, torch.int64, (len(ids),)),
        "fresh": (fresh, torch.int64, (len(ids), words)),
    }
    for name, (tensor, dtype, shape) in expected.items():
        check(name, tensor, dtype, shape)
    if build.call(
        "write_codes", codes, slot_codes, written, assignment, place, ids, fresh, len(ids), n, words,
        slot_codes.shape[2], clock,
    ):  # fmt: skip
        raise ValueError(f"ids holds a row that is not in 0..{n - 1}")


@write_codes_.register_fake
def _(codes, slot_codes, written, assignment, place, ids, fresh, clock) -> None:
    return None
