"""Sample grouping: which samples of a batch share one active set.

The paper's finding is that the number of important classes recalled *per sample* decides the accuracy. One
active set of A classes for a batch of B samples leaves each about A / B classes of its own; G groups with
an active set each leave it G times as many, at the same number of logits. That the paper's groups have one
each, and how they are formed, is not public; both ways here are ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

OWN_CLASSES = 16  # for each sample of a group, about: what the table "groups" says is best, and the table "rates"
FEWEST = 4  # samples in a group


def groups_by_rule(batch: int, active_classes: int) -> int:
    """So many groups, a power of two, that each sample of one has about 16 of its A places; none of less than 4."""
    wanted = 2 ** round(math.log2(OWN_CLASSES * batch / active_classes))
    return max(1, min(int(wanted), batch // FEWEST))


def group_sizes(batch: int, num_groups: int) -> list[int]:
    """Sizes of min(num_groups, batch) groups, differing by at most one, larger ones first."""
    groups = min(num_groups, batch)
    small, extra = divmod(batch, groups)
    return [small + 1] * extra + [small] * (groups - extra)


def random_groups(batch: int, num_groups: int, generator: torch.Generator) -> list[Tensor]:
    """A random partition of 0..batch-1 into groups of near equal size; each group [b] int64."""
    if min(num_groups, batch) == 1:
        return [torch.arange(batch)]  # one group is the batch, in its order
    return list(torch.randperm(batch, generator=generator).split(group_sizes(batch, num_groups)))


def similarity_groups(x: Tensor, num_groups: int) -> list[Tensor]:
    """Groups of samples that point the same way, so that their nearest classes overlap.

    x [B, d], rows normalised. The batch is split in two along its leading principal direction, and the
    halves again, until there are as many groups as asked for (sizes as in ``group_sizes``). Ties go to the
    lower sample; the direction's sign is fixed by its largest component.
    Derived in notebook 06, section "Groups of similar samples".
    """
    return _split(x, torch.arange(len(x), device=x.device), group_sizes(len(x), num_groups))


def _split(x: Tensor, samples: Tensor, sizes: list[int]) -> list[Tensor]:
    if len(sizes) == 1:
        return [samples]
    half = (len(sizes) + 1) // 2
    part = x.index_select(0, samples)
    order = torch.argsort(part @ _leading_direction(part), stable=True)
    cut = sum(sizes[:half])
    first, second = samples[order[:cut]], samples[order[cut:]]
    return _split(x, first.sort().values, sizes[:half]) + _split(x, second.sort().values, sizes[half:])


def _leading_direction(part: Tensor) -> Tensor:
    centred = part.double() - part.double().mean(dim=0)
    if len(centred) < centred.shape[1]:  # the smaller of the two Gram matrices has the same leading direction
        direction = centred.T @ torch.linalg.eigh(centred @ centred.T).eigenvectors[:, -1]
    else:
        direction = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
    sign = direction[direction.abs().argmax()].sign()
    return (direction * sign).to(part.dtype)
