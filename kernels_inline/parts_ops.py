"""annsoftmax::add_rows_ — add the gradient of one group's rows into that of all (C++ in parts.cpp).

Twin: ``total[places] += part`` for distinct places.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels_inline import build
from kernels_inline.checks import check
from kernels_inline.dispatch import needs


@needs("add_rows")
@torch.library.custom_op("annsoftmax::add_rows_", mutates_args=("total",))
def add_rows_(total: Tensor, places: Tensor, part: Tensor) -> None:
    """total [U, d] float32 += part [A, d] float32 or bfloat16 at rows places [A] int64, ascending and distinct."""
    check("total", total, torch.float32, total.shape if total.dim() == 2 else (-1, -1))
    check("places", places, torch.int64, (len(places),))
    half = part.dtype == torch.bfloat16
    check("part", part, torch.bfloat16 if half else torch.float32, (len(places), total.shape[1]))
    if build.call("add_rows", total, places, part, half, len(places), *total.shape):
        raise ValueError(f"places should ascend, without repeats, within 0..{len(total) - 1}")


@add_rows_.register_fake
def _(total, places, part) -> None:
    return None
