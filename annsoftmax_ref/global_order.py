"""Candidates in the order of all processes' candidates.

Each process has a share of the places of an active set, and fills it with the classes here that matter most to a
sample of the group. If it went by its own order of each sample's candidates, a sample whose nearest classes all lie on
one process would have of them only what every other sample has there; with many processes the sets would lose most of
the softmax's mass. So candidates are ranked among those of all processes, by histograms of their scores that are
summed over processes: ``BINS`` counts a sample.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref.shards import Shards

BINS = 64  # of a sample's histogram, between its best candidate's score and its worst one's
WIDEST = 4096  # columns of a table of candidates


def in_global_order(found: Tensor, scores: Tensor, shards: Shards) -> Tensor:
    """found [B, k] classes here, best first, then -1; scores [B, k], descending, which compare between processes -> the
    same classes [B, W], each in the column of its rank among all processes' candidates, -1 elsewhere.

    Ranks are exact on one process, elsewhere as exact as the histograms: candidates of one bin are taken to be spread
    evenly. k may differ between processes, and be 0.
    """
    ranks = _ranks(found >= 0, scores.float(), shards)  # [B, k], ascending
    k = found.shape[1]
    most = shards.ranks * k  # about so many candidates has a sample
    width = max(k, min(most, WIDEST))
    column = torch.arange(k, device=found.device)
    ranks = ranks // max(1, -(-most // max(1, width)))
    places = (ranks - column).cummax(dim=1).values + column if k else ranks  # each in a column of its own
    places = torch.minimum(places, width - k + column)
    return found.new_full((len(found), width), -1).scatter(1, places, found)


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
