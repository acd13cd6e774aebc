"""Sample grouping: which samples of a batch share one active set.

The paper's finding is that the number of important classes recalled *per sample* decides the accuracy. One
active set of A classes for a batch of B samples leaves each about A / B classes of its own; G groups with
an active set each leave it G times as many, at the same number of logits. That the paper's groups have one
each, and how they are formed, is not public; both ways here are ours, and any selector can be given either.

Groups are a table samples [G, b] of positions in the batch: sizes differ by at most one, the larger groups come
first, and a smaller one has -1 in its last place.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from annsoftmax_ref import backend
from kernels_inline.groups_ops import similar_order

OWN_CLASSES = 16  # for each sample of a group, about: what the table "groups" says is best, and the table "rates"
FEWEST = 4  # samples in a group
ITERATIONS = 3  # of the power method: its groups recall nearly as much as those of eigenvectors (notebook 06)


def groups_by_rule(batch: int, active_classes: int) -> int:
    """So many groups, a power of two, that each sample of one has about 16 of its A places; none of less than 4."""
    wanted = 2 ** round(math.log2(OWN_CLASSES * batch / active_classes))
    return max(1, min(int(wanted), batch // FEWEST))


def random_groups(batch: int, num_groups: int, generator: torch.Generator, device=None) -> Tensor:
    """A random partition of 0..batch-1 into min(num_groups, batch) groups [G, b]; one group: the batch in its order."""
    if min(num_groups, batch) == 1:
        return torch.arange(batch, device=device).unsqueeze(0)
    return _cut(torch.randperm(batch, generator=generator).to(device), num_groups)


@torch.no_grad()
def similar_groups(x: Tensor, num_groups: int) -> Tensor:
    """Groups [G, b] of samples that point the same way, so that their nearest classes overlap.

    x [B, d], rows of length 1. The batch is put in an order: halved along the direction in which it is spread most, the
    halves halved again, until there are at least num_groups parts, all parts of a level at once. The order is cut into
    min(num_groups, B) groups of near equal size.
    Derived in notebook 06, section "Groups of similar samples".
    """
    batch = len(x)
    if min(num_groups, batch) == 1:
        return torch.arange(batch, device=x.device).unsqueeze(0)
    levels = (min(num_groups, batch) - 1).bit_length()
    if backend.runs(similar_order, x):
        return _cut(similar_order(x.contiguous(), 2**levels, ITERATIONS), num_groups)
    return _cut(_similar_order(x, levels), num_groups)


def _similar_order(x: Tensor, levels: int) -> Tensor:
    """x [B, d] -> its order [B], halved so many times."""
    batch = len(x)
    room = -(-batch // 2**levels)  # of the last parts; places without a sample hold the number B, of a row of zeros
    order = torch.arange(room * 2**levels, device=x.device).clamp_max(batch)
    with torch.autocast(x.device.type, enabled=False):
        rows = torch.cat([x, x.new_zeros(1, x.shape[1])])
        for level in range(levels):
            parts = order.view(2**level, -1)  # [S, m]
            there = (parts < batch).unsqueeze(2)  # [S, m, 1]
            along = _along_main_direction(rows[parts], there)
            along = along.masked_fill(~there.squeeze(2), torch.inf)  # so that they stay the last of their part
            order = parts.gather(1, along.argsort(dim=1, stable=True)).flatten()
    return order[order < batch] if len(order) > batch else order


def members(groups: Tensor, batch: int) -> list[Tensor]:
    """groups [G, b] of a batch of so many -> the samples of each, without the places that hold none.

    Where there are none such, they are not looked for: a GPU would have to be waited for.
    """
    return list(groups) if groups.numel() == batch else [group[group >= 0] for group in groups]


def _along_main_direction(points: Tensor, there: Tensor) -> Tensor:
    """points [S, m, d] of S parts, there [S, m, 1]: which of them count -> places along each main direction [S, m].

    The power method on the covariance, from the point farthest from the mean. A direction's length is left as it is.
    """
    mean = points.sum(dim=1, keepdim=True) / there.sum(dim=1, keepdim=True).clamp_min(1)
    points = (points - mean) * there
    farthest = points.square().sum(dim=2).argmax(dim=1)
    direction = points[torch.arange(len(points), device=points.device), farthest].unsqueeze(2)  # [S, d, 1]
    for _ in range(ITERATIONS):
        direction = points.mT @ (points @ direction)
    return (points @ direction).squeeze(2)


def _cut(order: Tensor, num_groups: int) -> Tensor:
    """order [B], a permutation -> min(num_groups, B) runs of it [G, b], ascending in each, then -1."""
    batch, groups = len(order), min(num_groups, len(order))
    small, larger = divmod(batch, groups)
    if larger:
        head, tail = order[: larger * (small + 1)].view(larger, -1), order[larger * (small + 1) :].view(-1, small)
        tail = torch.nn.functional.pad(tail.sort(dim=1).values, (0, 1), value=-1)
        return torch.cat([head.sort(dim=1).values, tail])
    return order.view(groups, small).sort(dim=1).values
