"""Active sets over all processes: candidates in the order of all processes' candidates, and places by need.

If each process went by its own order of each sample's candidates, and had the same number of places, a sample whose
nearest classes all lie on one process would have of them only what every other sample has there; with many processes
the sets would lose most of the softmax's mass. So candidates are ranked among those of all processes, by histograms of
their scores that are summed over processes, ``BINS`` counts a sample; and the set is cut at one rank everywhere, by a
histogram of the best ranks of classes. A process has at most ``MOST`` times its share, so that none is far ahead of
the others; with shuffled classes hardly any would have more.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref.shards import Shards, range_of

BINS = 64  # of a sample's histogram, between its best candidate's score and its worst one's
SIGMAS = 3  # of the number of a sample's nearest classes that are on one process, if they are spread at random
WIDEST = 4096  # columns of a table of candidates
MOST = 2  # times its even share of the places, that a process may have


def most_here(candidates: int, shards: Shards) -> int:
    """Of a sample's nearest classes, how many may well be on one process, by the spread of a binomial distribution."""
    most, _ = range_of(shards.num_classes, 1, shards.ranks)
    here = candidates * most / shards.num_classes
    return min(math.ceil(here + SIGMAS * math.sqrt(here)) + 1, most)


def in_global_order(found: Tensor, scores: Tensor, most: int, shards: Shards) -> Tensor:
    """found [B, k] classes here, best first, then -1; scores [B, k], descending, which compare between processes -> the
    same classes [B, W], each in the column of its rank among all processes' candidates, -1 elsewhere.

    most: candidates a sample that a process may have, the same on all; k may be less, and 0. W = most P up to
    ``WIDEST``; of more, several ranks share a column. Ranks are exact on one process, elsewhere as exact as the
    histograms: candidates of one bin are taken to be spread evenly.
    """
    k, ranks = found.shape[1], shards.ranks
    width = max(most, min(most * ranks, WIDEST))
    places = _ranks(found >= 0, scores.float(), shards) // -(-most * ranks // width)  # [B, k], ascending
    if k:  # each in a column of its own
        column = torch.arange(k, device=found.device)
        places = (places - column).cummax(dim=1).values.clamp_max(width - k) + column
    return found.new_full((len(found), width), -1).scatter(1, places, found)


def places_by_need(table: Tensor, labels: Tensor, samples: Tensor, num_classes: int, total: int, shards: Shards) -> int:
    """How many of the ``total`` places of an active set this process has, for a cut at one rank on all processes.

    table [B, W]: by ``in_global_order``, of num_classes classes here. labels [B]: -1 for a class of another process.
    samples [G, b]: of each group, -1 where there is none; all groups' sets have the same number here, their mean. Where
    candidates are fewer than places, the others are shared evenly. The sum over processes is ``total``, up to rounding
    and to ``MOST``.
    """
    width, groups = table.shape[1], len(samples)
    here = torch.zeros(width + 1, dtype=torch.int32, device=table.device)  # classes by best column + 1; 0: labels
    for group in samples if num_classes else ():
        own = group[group >= 0]
        best = torch.full((num_classes + 1,), width + 1, dtype=torch.int32, device=table.device)
        columns = torch.arange(1, width + 1, dtype=torch.int32, device=table.device).expand(len(own), -1)
        # What is nowhere goes to a spare place, which is dropped.
        best.scatter_reduce_(0, table[own].remainder(num_classes + 1).flatten(), columns.flatten(), "amin")
        best[labels[own].remainder(num_classes + 1)] = 0
        here += torch.bincount(best[:num_classes], minlength=width + 2)[: width + 1].int()
    everywhere = shards.total(here, "order")
    upto, mine = everywhere.cumsum(0), here.cumsum(0)
    wanted, found = total * groups, int(upto[-1])
    if found <= wanted:
        places = int(mine[-1]) + (wanted - found) * num_classes / shards.num_classes
    else:
        cut = int((upto >= wanted).nonzero()[0])  # of this column, a part
        over = (int(upto[cut]) - wanted) / int(everywhere[cut])
        places = int(mine[cut]) - over * int(here[cut])
    share = -(-MOST * total * num_classes // shards.num_classes)
    return min(num_classes, max(1, min(round(places / groups), share)))


def _ranks(there: Tensor, scores: Tensor, shards: Shards) -> Tensor:
    """Of candidates, where they are there [B, k], the number of better ones on all processes, about."""
    nothing = -torch.inf
    best = F.pad(torch.where(there, scores, nothing), (0, 1), value=nothing).amax(dim=1)
    worst = F.pad(torch.where(there, -scores, nothing), (0, 1), value=nothing).amax(dim=1)
    high, low = shards.maximum(torch.stack([best, worst], dim=1), "order").unbind(dim=1)
    spread = (high + low).clamp_min(torch.finfo(scores.dtype).tiny).unsqueeze(1)
    depth = torch.where(there, (high.unsqueeze(1) - scores) / spread, 1)  # 0: the best, 1: the worst
    bins = (depth * BINS).long().clamp(0, BINS - 1)  # [B, k]
    here = torch.zeros(len(there), BINS, dtype=torch.int32, device=there.device)
    here.scatter_add_(1, bins, there.int())
    everywhere = shards.total(here, "order")
    better = everywhere.cumsum(1) - everywhere  # in better bins
    nth = torch.arange(there.shape[1], device=there.device) - (here.cumsum(1) - here).gather(1, bins)
    density = everywhere.gather(1, bins) / here.gather(1, bins).clamp_min(1)
    return (better.gather(1, bins) + (nth + 0.5) * density).long()
