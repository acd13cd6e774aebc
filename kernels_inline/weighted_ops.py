"""Active sets whose classes stand for those left out: ``tail_active`` and ``priority_active``, all groups in one call.

The kernels are in ``weighted.cpp``; on a GPU torch does it. They return what ``annsoftmax_ref.beyond.tail`` and
``.priority`` do in plain torch, from the same draws.
"""

from __future__ import annotations

import torch

from kernels_inline.checks import check
from kernels_inline.dispatch import call
from kernels_inline.kernel_op import kernel_op
from kernels_inline.select_ops import check_union, empty_sets, raise_for


@kernel_op(
    "tail_active",
    needs=("tail_active",),
    device_types=("cpu",),
    schema="(Tensor candidates, Tensor labels, Tensor samples, Tensor fill_order, int wanted, int count,"
    " int num_classes) -> (Tensor, Tensor, Tensor)",
)
def tail_active(candidates, labels, samples, fill_order, wanted, count, num_classes):
    """As ``union_active``, but searched classes get ``wanted`` places at most, and labels those that they need.

    Returns classes [G, count], targets [G, b] and log-weights [G, count] float64: 0 of the searched classes, of the l
    others log((N - searched) / l).
    """
    check_union(candidates, labels, samples, fill_order, count, num_classes)
    results = *empty_sets(samples, count), _log_weights(samples, count)
    code = call(
        "tail_active", candidates, labels, samples, fill_order, *candidates.shape, *samples.shape,
        fill_order.shape[1], wanted, count, num_classes, *results,
    )  # fmt: skip
    raise_for(code, count)
    return results


@kernel_op(
    "priority_active",
    needs=("priority_active",),
    device_types=("cpu",),
    schema="(Tensor candidates, Tensor logits, Tensor labels, Tensor samples, Tensor fill_order, Tensor pilot,"
    " Tensor pilot_logits, Tensor draws, int count, int num_classes) -> (Tensor, Tensor, Tensor)",
)
def priority_active(candidates, logits, labels, samples, fill_order, pilot, pilot_logits, draws, count, num_classes):
    """Each group's labels and a priority sample of all other classes: exactly ``count`` of them.

    candidates, labels, samples, fill_order: as ``union_active`` has them. logits [B, k] float32: estimates. pilot [p]
    int64: classes drawn uniformly, pilot_logits [B, p] float32. draws [G, b k + count + 1] float64, exponential:
    minus the logarithms of the uniforms of each group's candidates by ascending class, and from place b k on what the
    smallest uniforms of the classes are made of that none found.
    Returns classes [G, count], targets [G, b] and log-weights [G, count] float64, 0 of labels.
    """
    check_union(candidates, labels, samples, fill_order, count, num_classes)
    check("logits", logits, torch.float32, tuple(candidates.shape))
    check("pilot", pilot, torch.int64, ("p",))
    check("pilot_logits", pilot_logits, torch.float32, (len(candidates), len(pilot)))
    wide = samples.shape[1] * candidates.shape[1] + count + 1
    check("draws", draws, torch.float64, (len(samples), wide))
    results = *empty_sets(samples, count), _log_weights(samples, count)
    code = call(
        "priority_active", candidates, logits, labels, samples, fill_order, pilot, pilot_logits, draws,
        *candidates.shape, len(pilot), *samples.shape, fill_order.shape[1], count, num_classes, *results,
    )  # fmt: skip
    raise_for(code, count)
    return results


@tail_active.register_fake
def _(candidates, labels, samples, fill_order, wanted, count, num_classes):
    return *empty_sets(samples, count), _log_weights(samples, count)


@priority_active.register_fake
def _(candidates, logits, labels, samples, fill_order, pilot, pilot_logits, draws, count, num_classes):
    return *empty_sets(samples, count), _log_weights(samples, count)


def _log_weights(samples, count):
    return samples.new_empty(len(samples), count, dtype=torch.float64)
