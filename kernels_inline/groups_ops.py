"""Groups of similar samples: ``similar_order``. The kernel is in ``groups.cpp``; on a GPU torch does it.

Twin in plain torch: ``annsoftmax_ref.grouping``; NumPy twin: ``annsoftmax_ref.reference.similar_groups``.
"""

from __future__ import annotations

import torch

from kernels_inline.checks import check
from kernels_inline.dispatch import call
from kernels_inline.kernel_op import kernel_op


@kernel_op(
    "similar_order",
    needs=("similar_order",),
    device_types=("cpu",),
    schema="(Tensor x, int parts, int iterations) -> Tensor",
)
def similar_order(x, parts, iterations):
    """x [B, d] float32, rows of length 1 -> a permutation of 0..B-1 [B]: ``parts`` parts, a power of two, one after the
    other, made by halving along the direction of largest spread, found by so many iterations of the power method.
    """
    check("x", x, torch.float32, ("B", "d"))
    if parts < 1 or parts & (parts - 1):
        raise ValueError(f"parts is {parts}; it should be a power of two")
    order = x.new_empty(len(x), dtype=torch.int64)
    call("similar_order", x, *x.shape, parts, iterations, order)
    return order


@similar_order.register_fake
def _(x, parts, iterations):
    return x.new_empty(x.shape[0], dtype=torch.int64)
