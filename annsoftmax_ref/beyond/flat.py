"""Flat search: the active sets straight from the codes of all classes, without lists and without candidates.

Each sample's threshold is the score that about k classes reach, measured on a part of the classes. A class's byte is
by how much it passes the threshold of the group's sample that it passes by most; the ``count`` largest bytes are the
active set. Search, union and removal of duplicates are one pass over the codes: N W words read for each group, which
binary tensor cores do faster than lists can be probed (``kernels_inline/cuda/flat.cu``; on the CPU plain torch does
it, slowly). Ours: the paper has an inverted file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.active_sets import ActiveSet, ActiveSets, draw_fill
from annsoftmax_ref.grouping import members
from annsoftmax_ref.host_numbers import told
from kernels_inline.flat_ops import flat_map, flat_map_torch, query_planes
from kernels_inline.flat_threshold_ops import flat_thresholds, flat_thresholds_torch
from kernels_inline.select_ops import select_map, select_map_torch

STRIDE = 8  # the thresholds are measured on every eighth class, from a start that is drawn


@dataclass(frozen=True)
class Flat:
    """planes: 1 or 2, the bits that a number of a sample is compared with."""

    planes: int

    def active_sets(self, selector, groups, x, labels, weight, generator) -> ActiveSets:
        """As ``Selector.select``, for groups [G, b] of samples, as ``ActiveSets`` has them."""
        index = selector.index
        turned = x @ index.rotation.to(x.dtype) if index.rotate else x
        first = draw_fill(selector.num_classes, 1, generator, len(groups), x.device) if selector.shards else None
        labels = labels if first is None else selector.labels_here(labels, groups, first)
        count = selector.places_for(labels)
        return flat_active(turned, groups, labels, index.codes, count, self.planes, generator)


def flat_active(
    x: Tensor, groups: Tensor, labels: Tensor, codes: Tensor, count: int, planes: int, generator: torch.Generator
) -> ActiveSets:
    """x [B, d] unit rows, rotated as the codes were; groups [G, b]; codes [N, W] -> a set for each group.

    planes: 1 (signs of the samples) or 2 (four levels a number). Exactly ``count`` classes each, the labels always in.
    """
    dim, each = x.shape[1], members(groups, len(x))
    bits = query_planes(x[torch.cat(each)].float(), planes)
    stride = min(STRIDE, len(codes))
    first = told(lambda: int(torch.randint(stride, (), generator=generator)), codes.device)
    share = max(1, count // groups.shape[1])
    measure = flat_thresholds if backend.runs(flat_thresholds, bits, codes) else flat_thresholds_torch
    thresholds = measure(bits, codes, dim, share, stride, first)
    bounds = F.pad((groups >= 0).sum(dim=1).cumsum(0), (1, 0))
    # A bit of a score of two planes weighs 1 or 2: half of a margin of theirs is about one of signs.
    score = flat_map if backend.runs(flat_map, bits, codes) else flat_map_torch
    bytes_of = score(bits, thresholds, codes, bounds, dim, planes - 1)
    choose = select_map if backend.runs(select_map, bytes_of) else select_map_torch
    return ActiveSets.of(
        [ActiveSet(own, *choose(scores, labels[own], count)) for own, scores in zip(each, bytes_of, strict=True)]
    )
