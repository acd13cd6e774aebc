"""Every row of a weight, a part at a time, so that nothing of the weight's own size is made beside it.

Training reads some rows of a weight (``rows``). These are for what needs all of them: the first directions, the exact
cosines with all classes, and the loss over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref.row_parameter import catch_up
from annsoftmax_ref.rows import autocasts, cosines, unit_rows, widened
from kernels_inline.checks import gradient_kind

PART = 1 << 24  # numbers of a part: 64 MB


def random_directions(num_rows: int, dim: int, generator: torch.Generator, dtype: torch.dtype, device=None) -> Tensor:
    """[num_rows, dim] rows of length 1, uniformly on the sphere, the same on every device.

    They are drawn on the CPU, in parts and yet as if at once: torch makes normal numbers 16 at a time.
    """
    directions = torch.empty(num_rows, dim, dtype=dtype, device=device)
    fine = dtype if dtype == torch.float64 else torch.float32  # rounded to less last
    for part in parts(num_rows, dim):
        drawn = torch.randn(part.stop - part.start, dim, generator=generator, dtype=fine)
        directions[part] = F.normalize(drawn, dim=1).to(device)
    return directions


def all_cosines(x: Tensor, weight: Tensor) -> Tensor:
    """x [B, d], rows of length 1, weight [N, d] -> the cosines with all rows [B, N].

    Rows that lag are brought up to date. Where a gradient is taken, all rows of length 1 [N, d] are made, and kept.
    """
    catch_up(weight)
    if torch.is_grad_enabled():
        return cosines(x, unit_rows(weight))
    return torch.cat([cosines(x, unit_rows(weight[part])) for part in parts(*weight.shape)], dim=1)


@torch.no_grad()
def nearest_of_all(x: Tensor, weight: Tensor, k: int, shifts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x [B, d], rows of length 1, weight [N, d] -> the k largest cosines, with shifts [N] added to them, and whose they
    are: [B, k] each, the largest first. Nothing of size [B, N] is made. Rows that lag are brought up to date."""
    best = classes = None
    for part, scores in scores_by_part(x, weight, shifts):
        found, places = scores.topk(min(k, scores.shape[1]), dim=1)
        places += part.start
        if best is not None:
            found, order = torch.cat([best, found], dim=1).topk(min(k, part.stop), dim=1)
            places = torch.cat([classes, places], dim=1).gather(1, order)
        best, classes = found, places
    return best, classes


@torch.no_grad()
def scores_by_part(x: Tensor, weight: Tensor, shifts: Tensor | None = None) -> Iterator[tuple[slice, Tensor]]:
    """x [B, d], rows of length 1, weight [N, d] -> the rows of a part, and the cosines with them [B, n], with shifts
    [N] added: part by part. Rows that lag are brought up to date."""
    catch_up(weight)
    for part in parts(*weight.shape):
        scores = cosines(x, unit_rows(weight[part]))
        yield part, scores if shifts is None else scores + shifts[part]


def is_long(weight: Tensor) -> bool:
    """Whether weight [N, d] has more rows than a part."""
    return weight.numel() > PART


def own_and_others(x: Tensor, weight: Tensor, labels: Tensor, scale: float, bias: Tensor | None = None):
    """Of each sample, the logit of its own class and log sum e^logit over all others: [B] each, in float32 at least.

    x [B, d], rows of length 1, weight [N, d], labels [B], bias [N], added to scale * cosine. The logits [B, N] are made
    a part at a time, and in the backward pass once more; there a gradient of the weight's size is all that is made. A
    gradient of that has none in turn. Rows that lag are brought up to date.

    The idea is that of fused cross entropies (Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models",
    2024): a softmax needs of the other logits one number a sample.
    """
    catch_up(weight)
    return _OwnAndOthers.apply(x, weight, labels, scale, bias)


class _OwnAndOthers(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, labels: Tensor, scale: float, bias: Tensor | None):
        ctx.scale, ctx.half = scale, autocasts(x)
        own = others = None
        for part in parts(*weight.shape):
            logits, columns, there = _logits(x, unit_rows(weight[part]), part, labels, scale, bias, ctx.half)
            found = logits.gather(1, columns)
            rest = logits.scatter(1, columns, torch.where(there, -torch.inf, found)).logsumexp(dim=1)
            found = torch.where(there, found, 0).squeeze(1)
            own, others = (found, rest) if own is None else (own + found, torch.logaddexp(others, rest))
        ctx.save_for_backward(x, weight, labels, bias, others)
        return own, others

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, d_own: Tensor, d_others: Tensor):
        x, weight, labels, bias, others = ctx.saved_tensors
        kind = torch.bfloat16 if ctx.half else x.dtype
        dx, dweight = torch.zeros_like(x), torch.empty_like(weight, dtype=gradient_kind(weight))
        dbias = None if bias is None else torch.empty_like(bias)
        for part in parts(*weight.shape):
            with torch.enable_grad():
                rows = widened(weight[part].detach()).requires_grad_()
                unit = unit_rows(rows)
            directions = unit.detach()
            logits, columns, there = _logits(x, directions, part, labels, ctx.scale, bias, ctx.half)
            slope = (logits - others[:, None]).exp_() * d_others[:, None]
            slope.scatter_(1, columns, torch.where(there, d_own[:, None], slope.gather(1, columns)))
            if bias is not None:
                dbias[part] = slope.sum(dim=0)
            slope = (slope * ctx.scale).to(kind)
            dx += (slope @ directions.to(kind)).to(x.dtype)
            (dweight[part],) = torch.autograd.grad(unit, rows, (slope.T @ x.to(kind)).to(unit.dtype))
        return dx, dweight, None, None, dbias


def _logits(x: Tensor, directions: Tensor, part: slice, labels: Tensor, scale: float, bias: Tensor | None, half: bool):
    """Of the rows of a part, as directions [n, d]: logits [B, n], a column for each sample [B, 1], and whether it is
    its own class [B, 1]."""
    product = x.bfloat16() @ directions.bfloat16().T if half else x.to(directions.dtype) @ directions.T
    logits = scale * product.to(directions.dtype)
    if bias is not None:
        logits = logits + bias[part]
    places = (labels - part.start).unsqueeze(1)
    there = (places >= 0) & (places < len(directions))
    return logits, places.clamp(0, len(directions) - 1), there


def parts(num_rows: int, dim: int) -> Iterator[slice]:
    """0..num_rows-1 in slices of about ``PART`` numbers: each but the last a multiple of 16 rows, and none of less."""
    step = max(16, PART // dim // 16 * 16)
    starts = [start for start in range(0, num_rows, step) if start == 0 or num_rows - start >= 16]
    return (slice(*ends) for ends in pairwise([*starts, num_rows]))
