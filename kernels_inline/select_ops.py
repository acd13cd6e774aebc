"""Active sets of exactly ``count`` classes in ascending order: ``union_active`` from the candidates of each group's
samples, ``select_map`` from the map of a flat scan.

The kernels are in ``cuda/select.cu``, that of ``union_active`` also in ``select.cpp``. They return what
``annsoftmax_ref.active_sets.union_active`` and ``select_map_torch`` do, number for number. NumPy twins:
``annsoftmax_ref.reference`` (``union_active``, ``select_map``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels_inline import choice
from kernels_inline.checks import DEVICES, check
from kernels_inline.dispatch import call
from kernels_inline.kernel_op import kernel_op

ERRORS = {
    1: "labels holds a class id that is not in 0..num_classes-1",
    2: "candidates holds a class id that is not below num_classes",
    3: "fill_order holds a class id that is not in 0..num_classes-1",
    4: "samples holds a position that is not in -1..B-1",
}
LABEL = -1  # the key of a label: before that of byte 255, which is 0


@kernel_op(
    "union_active",
    needs=("union_active",),
    device_types=DEVICES,
    schema="(Tensor candidates, Tensor labels, Tensor samples, Tensor fill_order, int count, int num_classes)"
    " -> (Tensor, Tensor)",
)
def union_active(candidates, labels, samples, fill_order, count, num_classes):
    """For each group the union of its samples' candidates, their labels always in, cut or filled to ``count`` classes.

    candidates [B, k] int64: each sample's classes, nearest first, -1 where there is none. labels [B]. samples [G, b]:
    each group's positions in the batch, -1 where there is none. fill_order [G, L]: classes to take, in this order,
    where a union is too small; then the lowest ids. Too large a union is cut by rank, ties to the lower id.
    Returns classes [G, count] ascending in each row and targets [G, b], the places of the samples' labels among them,
    -1 where there is no sample. Raises ValueError if a group's labels alone are more than ``count`` classes.
    """
    check_union(candidates, labels, samples, fill_order, count, num_classes)
    if samples.shape[1] > count and (labels.is_cuda or choice.current() == "emulator"):
        # The CUDA kernel cannot tell; it is waited for only in this case.
        for group in samples:
            _check_room(len(labels[group[group >= 0]].unique()), count)
    classes, targets = empty_sets(samples, count)
    code = call(
        "union_active", candidates, labels, samples, fill_order, *candidates.shape, *samples.shape,
        fill_order.shape[1], count, num_classes, classes, targets,
    )  # fmt: skip
    raise_for(code, count)
    return classes, targets


@kernel_op("select_map", needs=("select_map",), schema="(Tensor scores, Tensor labels, int count) -> (Tensor, Tensor)")
def select_map(scores, labels, count):
    """The labels and the classes with the largest bytes, ties to the lower id: exactly ``count`` classes.

    scores [N] uint8: the flat scan's map, the larger the better. labels [b] int64, always in. Returns classes [count]
    ascending and targets [b], the places of the labels among them.
    Raises ValueError if the labels alone are more than ``count`` classes. A GPU would have to be waited for to know:
    there the lowest ``count`` labels are in, and the targets of the others are -1. Raises BuildError where
    nothing can be built.
    """
    _check_map(scores, labels, count)
    classes, targets = labels.new_empty(count), torch.empty_like(labels)
    code = call("select_map", scores, labels, len(labels), count, len(scores), classes, targets)
    if code:
        raise RuntimeError(f"select_map returned {code}")
    return classes, targets


@union_active.register_fake
def _(candidates, labels, samples, fill_order, count, num_classes):
    return empty_sets(samples, count)


@select_map.register_fake
def _(scores, labels, count):
    return labels.new_empty(count), torch.empty_like(labels)


def select_map_torch(scores: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The same in plain torch, by a stable sort."""
    _check_map(scores, labels, count)
    key = 255 - scores.to(torch.int16)
    key[labels] = LABEL
    classes = key.argsort(stable=True)[:count].sort().values
    return classes, torch.searchsorted(classes, labels)


def empty_sets(samples: Tensor, count: int) -> tuple[Tensor, Tensor]:
    return samples.new_empty(len(samples), count), torch.empty_like(samples)


def check_union(candidates, labels, samples, fill_order, count: int, num_classes: int) -> None:
    check("candidates", candidates, torch.int64, ("B", "k"))
    check("labels", labels, torch.int64, (len(candidates),))
    check("samples", samples, torch.int64, ("G", "b"))
    check("fill_order", fill_order, torch.int64, (len(samples), "L"))
    if not 0 <= count <= num_classes:
        raise ValueError(f"count is {count}; it should be from 0 to num_classes, {num_classes}")


def _check_map(scores: Tensor, labels: Tensor, count: int) -> None:
    check("scores", scores, torch.uint8, ("N",))
    check("labels", labels, torch.int64, ("b",))
    if not 0 <= count <= len(scores):
        raise ValueError(f"count is {count}; it should be from 0 to the number of classes, {len(scores)}")
    if choice.shapes_are_fixed(scores):  # whose values nobody looks at
        return
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(scores):
        raise ValueError(f"labels holds a class id that is not in 0..{len(scores) - 1}, the places of scores")
    _check_room(len(labels.unique()), count)


def raise_for(code: int, count: int) -> None:
    """ValueError for what a kernel returned, if it was no success."""
    _check_room(-code, count)
    if code:
        raise ValueError(ERRORS[code])


def _check_room(distinct: int, count: int) -> None:
    if distinct > count:
        raise ValueError(
            f"labels holds {distinct} distinct classes, more than the {count} active classes of a "
            "group; raise sample_rate or lower the batch size"
        )
