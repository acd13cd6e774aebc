"""What the options share: classes drawn at random, and their logits."""

from __future__ import annotations

import torch
from torch import Tensor

from annsoftmax_ref.active_sets import draw_fill
from annsoftmax_ref.rows import unit_rows


def draw_distinct(total: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` distinct numbers of 0..total-1 in a random order [count], uniformly; costs O(count log count)."""
    drawn = draw_fill(total, count, generator)[0].unique()
    if len(drawn) < count:
        drawn = torch.arange(total)
    # Which numbers turned up depends on none of them being special, so that a random part of them is uniform.
    return drawn[torch.randperm(len(drawn), generator=generator)[:count]]


def draw_outside(inside: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """inside [N] bool -> ``count`` distinct classes that are not in it, uniformly, in a random order [count]."""
    others = (~inside).nonzero().squeeze(1)
    return others[draw_distinct(len(others), count, generator).to(inside.device)]


@torch.no_grad()
def scaled_cosines(x: Tensor, weight: Tensor, classes: Tensor, scale: float) -> Tensor:
    """x [b, d] unit rows, weight [N, d], classes [n] -> scale * cosine [b, n], as the rows stand."""
    with torch.autocast(x.device.type, enabled=False):  # not to depend on bfloat16 rounding
        directions = unit_rows(weight.detach().index_select(0, classes))
        return scale * (x.to(directions.dtype) @ directions.T)
