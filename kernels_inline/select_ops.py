"""Active sets from the map of a flat scan: ``select_map``, exactly ``count`` classes in ascending order.

The kernel is in ``cuda/select.cu``, and there is none in C++; ``select_map_torch`` returns the same, number for number.
NumPy twin: ``annsoftmax_ref.reference.flat_select``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels_inline import build
from kernels_inline.checks import described
from kernels_inline.dispatch import needs

LABEL = -1  # the key of a label: before that of byte 255, which is 0


@needs("select_map")
@torch.library.custom_op(
    "annsoftmax::select_map", mutates_args=(), schema="(Tensor scores, Tensor labels, int count) -> (Tensor, Tensor)"
)
def select_map(scores, labels, count):
    """The labels and the classes with the largest bytes, ties to the lower id: exactly ``count`` classes.

    scores [N] uint8: the flat scan's map, the larger the better. labels [b] int64, always in. Returns classes [count]
    ascending and targets [b], the places of the labels among them.
    Raises ValueError if the labels alone are more than ``count`` classes. A GPU would have to be waited for to know:
    there the lowest ``count`` labels are in, and the targets of the others are -1. Raises build.BuildError where
    nothing can be built.
    """
    _check(scores, labels, count)
    classes, targets = labels.new_empty(count), torch.empty_like(labels)
    code = build.call("select_map", scores, labels, len(labels), count, len(scores), classes, targets)
    if code:
        raise RuntimeError(f"select_map returned {code}")
    return classes, targets


@select_map.register_fake
def _(scores, labels, count):
    return labels.new_empty(count), torch.empty_like(labels)


def select_map_torch(scores: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The same in plain torch, by a stable sort."""
    _check(scores, labels, count)
    key = 255 - scores.to(torch.int16)
    key[labels] = LABEL
    classes = key.argsort(stable=True)[:count].sort().values
    return classes, torch.searchsorted(classes, labels)


def _check(scores: Tensor, labels: Tensor, count: int) -> None:
    for name, tensor, dtype in (("scores", scores, torch.uint8), ("labels", labels, torch.int64)):
        if tensor.dtype != dtype or tensor.dim() != 1 or not tensor.is_contiguous() or tensor.device != scores.device:
            raise ValueError(
                f"{name} is {described(tensor)}; it should be a contiguous {dtype} tensor with one dimension on "
                f"{scores.device}"
            )
    if not 0 <= count <= len(scores):
        raise ValueError(f"count is {count}; it should be from 0 to the number of classes, {len(scores)}")
    if scores.device.type == "cpu":
        _check_values(scores, labels, count)


def _check_values(scores: Tensor, labels: Tensor, count: int) -> None:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(scores):
        raise ValueError(f"labels holds a class id that is not in 0..{len(scores) - 1}, the places of scores")
    distinct = len(labels.unique())
    if distinct > count:
        raise ValueError(
            f"labels holds {distinct} distinct classes, more than the {count} active classes of a "
            "group; raise sample_rate or lower the batch size"
        )
