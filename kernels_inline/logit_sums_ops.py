"""A softmax of which each process has some columns: ``logit_sums`` and ``logit_slopes_``.

To an objective a sample's logits are two numbers: the logit of its own class, and log sum e^logit over all others
(``annsoftmax_ref.objectives``, ``loss_of_sums``). Each process finds both among its own columns, together they add up
what they found, and with the result each turns its cosines into their gradient:

    own, others = logit_sums(cosine, targets, scale)                  # of this process
    own, others = ...                                                 # the sum of own, log sum e^others, over processes
    logit_slopes_(cosine, targets, scale, others, d_own, d_others)    # d_own = d loss / d own, of each sample

One process alone has ``softmax_ops`` for it. The kernels are in ``logit_sums.cpp``; arithmetic is in float32, with
per-sample quantities in float64, and results do not depend on the number of threads. Twins in plain torch:
``logit_sums_torch`` and ``logit_slopes_torch_``, which take float64 as well.
"""

import math

import torch
from torch import Tensor

from kernels_inline.checks import check
from kernels_inline.dispatch import call
from kernels_inline.kernel_op import kernel_op
from kernels_inline.softmax_ops import checked_columns, raise_for


@kernel_op("logit_sums", needs=("logit_sums", "logit_slopes"))
def logit_sums(
    cosine: Tensor,
    targets: Tensor,
    scale: float,
    offset: Tensor | None = None,
    far: Tensor | None = None,
    far_offset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The logit of each row's own class, and log sum e^logit over its other columns, where logit = scale * cosine.

    cosine [R, A] float32 or bfloat16, targets [R] int64: the column of each sample's own class, -1 where that is on
    another process. offset [G, A] float32: added to the logits of G active sets of R / G rows each, one after another.
    far [R, L] in cosine's type, far_offset [G, L] float32: more columns, which are nobody's target. R, A and L may be
    0 -> own [R] float32, 0 where the target is -1, and others [R] float32, -inf where there are none. A NaN in a
    column gets into the number that the column belongs to. Raises ValueError, BuildError.
    """
    columns = checked_columns(cosine, targets, offset, far, far_offset)
    _check_scale(scale)
    own, others = _empty_sums(cosine)
    raise_for(call("logit_sums", *columns, float(scale), own, others), cosine)
    return own, others


@kernel_op("logit_slopes_", needs=("logit_slopes",), mutates=("cosine", "far"))
def logit_slopes_(
    cosine: Tensor,
    targets: Tensor,
    scale: float,
    others: Tensor,
    d_own: Tensor,
    d_others: Tensor,
    offset: Tensor | None = None,
    far: Tensor | None = None,
    far_offset: Tensor | None = None,
) -> None:
    """The cosines are overwritten by the gradient of what ``logit_sums`` returned, and so are those of far.

    others [R] float32: log sum e^logit over the columns of all processes but those of targets, so that none of these
    logits is above it; d_own and d_others [R] float32: the gradients of both numbers. A column's slope is
    scale * d_own if it is the target's, else scale * d_others * e^(logit - others), and 0 where others is -inf. All
    else as for ``logit_sums``. Raises ValueError, BuildError.
    """
    columns = checked_columns(cosine, targets, offset, far, far_offset)
    _check_scale(scale)
    of_rows = {"others": others, "d_own": d_own, "d_others": d_others}
    for name, tensor in of_rows.items():
        check(name, tensor, torch.float32, cosine.shape[:1])
    raise_for(call("logit_slopes", *columns, float(scale), *of_rows.values()), cosine)


def _check_scale(scale: float) -> None:
    if not 0 < scale < math.inf:
        raise ValueError(f"scale is {scale}; it should be finite and above 0")


def _empty_sums(cosine: Tensor) -> tuple[Tensor, Tensor]:
    own = cosine.new_empty(cosine.shape[0], dtype=torch.float32)
    return own, torch.empty_like(own)


@logit_sums.register_fake
def _(cosine, targets, scale, offset=None, far=None, far_offset=None):
    return _empty_sums(cosine)


@logit_slopes_.register_fake
def _(cosine, targets, scale, others, d_own, d_others, offset=None, far=None, far_offset=None):
    return None


# ---------------------------------------------------------------------------------------------------- in plain torch


def logit_sums_torch(
    cosine: Tensor,
    targets: Tensor,
    scale: float,
    offset: Tensor | None = None,
    far: Tensor | None = None,
    far_offset: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``logit_sums`` in plain torch, in float32 at least; differentiable."""
    logits, is_own = _logits(cosine, scale, offset), _is_own(cosine, targets)
    rest = logits.masked_fill(is_own, -math.inf)
    if far is not None:
        rest = torch.cat([rest, _logits(far, scale, far_offset)], dim=1)
    return logits.where(is_own, 0).sum(dim=1), rest.logsumexp(dim=1)


@torch.no_grad()
def logit_slopes_torch_(
    cosine: Tensor,
    targets: Tensor,
    scale: float,
    others: Tensor,
    d_own: Tensor,
    d_others: Tensor,
    offset: Tensor | None = None,
    far: Tensor | None = None,
    far_offset: Tensor | None = None,
) -> None:
    """``logit_slopes_`` in plain torch."""

    def of_others(columns: Tensor, shifts: Tensor | None) -> Tensor:
        slope = (_logits(columns, scale, shifts) - others[:, None]).exp_() * (scale * d_others)[:, None]
        return slope.masked_fill_(others.isneginf()[:, None], 0)

    own = (scale * d_own)[:, None]
    cosine.copy_(torch.where(_is_own(cosine, targets), own, of_others(cosine, offset)))
    if far is not None:
        far.copy_(of_others(far, far_offset))


def _logits(columns: Tensor, scale: float, offset: Tensor | None) -> Tensor:
    """scale * columns [R, n] + offset [G, n] of each row's set, in float32 at least."""
    logits = scale * (columns if columns.dtype == torch.float64 else columns.float())
    if offset is None:
        return logits
    return logits + offset.repeat_interleave(len(columns) // len(offset), dim=0)


def _is_own(cosine: Tensor, targets: Tensor) -> Tensor:
    """[R, A] bool: in each row True at its target, if it is there."""
    return torch.arange(cosine.shape[1], device=cosine.device) == targets[:, None]
