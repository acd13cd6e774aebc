"""Active sets: ``union_active``, from each sample's candidates to exactly ``count`` classes in ascending order.

The kernel is ``sets.cpp``. It returns what ``annsoftmax_ref.active_sets.union_active`` does, number for number.
"""

from __future__ import annotations

import torch

from kernels_inline import build, choice
from kernels_inline.checks import DEVICES
from kernels_inline.dispatch import needs

ERRORS = {
    1: "labels holds a class id that is not in 0..num_classes-1",
    2: "candidates holds a class id that is not below num_classes",
    3: "fill_order holds a class id that is not in 0..num_classes-1",
}


@needs("union_active")
@torch.library.custom_op(
    "annsoftmax::union_active",
    mutates_args=(),
    device_types=DEVICES,
    schema="(Tensor candidates, Tensor labels, Tensor fill_order, int count, int num_classes) -> (Tensor, Tensor)",
)
def union_active(candidates, labels, fill_order, count, num_classes):
    """Union of the samples' candidates, their labels always in, cut or filled to exactly ``count`` classes.

    candidates [b, k] int64: each sample's classes, nearest first, -1 where there is none. labels [b].
    fill_order [L]: classes to take, in this order, where the union is too small; then the lowest ids.
    Too large a union is cut by rank, ties to the lower id. Returns classes [count] ascending and targets [b], the
    places of the labels among them. Raises ValueError if the labels alone are more than ``count`` classes.
    """
    _check(candidates, labels, fill_order, count, num_classes)
    if len(labels) > count and (labels.is_cuda or choice.current() == "emulator"):
        _check_room(len(labels.unique()), count)  # the CUDA kernel cannot tell; it is waited for only in this case
    classes, targets = labels.new_empty(count), torch.empty_like(labels)
    code = build.call(
        "union_active", candidates, labels, fill_order, *candidates.shape, len(fill_order), count, num_classes,
        classes, targets,
    )  # fmt: skip
    _check_room(-code, count)
    if code:
        raise ValueError(ERRORS[code])
    return classes, targets


@union_active.register_fake
def _(candidates, labels, fill_order, count, num_classes):
    return labels.new_empty(count), torch.empty_like(labels)


def _check_room(distinct: int, count: int) -> None:
    if distinct > count:
        raise ValueError(
            f"labels holds {distinct} distinct classes, more than the {count} active classes of a "
            "group; raise sample_rate or lower the batch size"
        )


def _check(candidates, labels, fill_order, count: int, num_classes: int) -> None:
    for name, tensor in {"candidates": candidates, "labels": labels, "fill_order": fill_order}.items():
        if tensor.dtype != torch.int64 or tensor.device.type not in DEVICES:
            wanted = "int64 on the CPU or a CUDA device"
            raise TypeError(f"{name} is {tensor.dtype} on {tensor.device}; it should be {wanted}")
        if not tensor.is_contiguous():
            raise ValueError(f"{name} has strides {tensor.stride()}; it should be contiguous")
    if candidates.dim() != 2 or labels.shape != candidates.shape[:1] or fill_order.dim() != 1:
        raise ValueError(
            f"candidates, labels and fill_order have shapes {list(candidates.shape)}, {list(labels.shape)} and "
            f"{list(fill_order.shape)}; they should be [b, k], [b] and [L]"
        )
    if not 0 <= count <= num_classes:
        raise ValueError(f"count is {count}; it should be from 0 to num_classes, {num_classes}")
