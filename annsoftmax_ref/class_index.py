"""Approximate top-k: the classes nearest to a sample by the sign codes of an index, in the order of exact cosines.

The index is the one that training searched (``NearestClasses``), or one made for prediction (``ClassIndex``). Either
way codes are compared with the sample rounded to 4 bits a number, whatever training did: that finds more than its signs
alone among as many candidates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from annsoftmax_ref.checks import check_positive_int, check_share
from annsoftmax_ref.every_row import nearest_of_all
from annsoftmax_ref.following import follow
from annsoftmax_ref.host_numbers import number
from annsoftmax_ref.index import IVFBinaryIndex
from annsoftmax_ref.list_sizes import default_nlist, default_nprobe
from annsoftmax_ref.row_log import RowLog
from annsoftmax_ref.row_parameter import catch_up, row_state, unwatching
from annsoftmax_ref.rows import by_cosine

CANDIDATES = 100  # for the nearest class; for the k nearest, sqrt(k) times as many


def default_candidates(k: int) -> int:
    """100 sqrt(k): 100 for one class, 317 for ten."""
    return math.ceil(CANDIDATES * math.sqrt(k))


def check_candidates(candidates: int | None, k: int) -> int:
    """``candidates``, or the default; ValueError for fewer than k."""
    if candidates is None:
        return default_candidates(k)
    if check_positive_int("candidates", candidates) < k:
        raise ValueError(f"candidates is {candidates}; it should be at least k, {k}")
    return int(candidates)


class ClassIndex:
    """An index over the rows of a weight [N, d], made for prediction; it follows them when they move.

    nlist: lists; default, as many as ``NearestClasses`` takes. seed: of the rows that k-means begins with.
    """

    def __init__(self, weight: Tensor, nlist: int | None = None, seed: int = 0):
        self._seed, self._log = seed, RowLog(wants_codes=True)
        self.index = IVFBinaryIndex(*weight.shape, default_nlist(len(weight)) if nlist is None else nlist)
        self.index.to(weight.device)
        catch_up(weight)
        row_state(weight).attach(self._log)
        self._make_lists(weight)

    def follow(self, weight: Tensor) -> None:
        """Bring the index to where the weight is now, and onto its device."""
        state, index = row_state(weight), self.index
        state.attach(self._log)
        state.look(weight)
        if index.codes.device != weight.device:
            index.to(weight.device)
        if not self._log:
            return
        before = index.codes.clone()
        follow(index, self._log, weight)
        if index.outdated:
            self._make_lists(weight)
        else:  # nobody else looks whether rows are still in their nearest lists
            turned = (index.codes != before).any(dim=1).nonzero().squeeze(1)
            index.refresh(weight, turned, move_centroids=False)

    def _make_lists(self, weight: Tensor) -> None:
        self.index.train_lists(weight, torch.Generator().manual_seed(self._seed))
        self._log.clear()


def nearest_by_index(head, x: Tensor, k: int, nprobe: int | None, candidates: int) -> tuple[Tensor, Tensor]:
    """``nearest_of_all`` of x [B, d], rows of length 1, among so many ``candidates`` in ``nprobe`` lists of the head's
    index, brought up to date. A sample whose lists hold fewer than k classes is compared with all of them."""
    weight = head.weight
    index, probes = _index_of(head)
    nprobe = probes if nprobe is None else nprobe
    found, _ = index.scan(x, min(candidates, len(weight)), nprobe, asymmetric=not index.centre)
    head._bring_up_to_date(found)
    found, cosines = by_cosine(x, weight.detach(), found)
    if head.bias is not None:
        cosines = cosines + head.bias.detach()[found.clamp_min(0)] / head.objective.scale
        cosines, order = cosines.masked_fill(found < 0, -torch.inf).sort(dim=1, descending=True, stable=True)
        found = found.gather(1, order)
    cosines, found = cosines[:, :k].contiguous(), found[:, :k].contiguous()
    few = found[:, -1] < 0
    if few.any():
        cosines[few], found[few] = nearest_of_all(x[few], weight, k, head._shifts())
    return cosines, found


@torch.inference_mode(False)  # what an index keeps is to be changed again later
@torch.no_grad()
@unwatching
def find_index(head) -> tuple[IVFBinaryIndex, int] | None:
    """The head's index, brought up to date, and how many lists to probe where nobody says; None if it has none."""
    if head.class_index is not None:
        head.class_index.follow(head.weight)
        return head.class_index.index, default_nprobe(head.class_index.index.nlist)
    index = getattr(head.selector, "index", None)
    if index is None:
        return None
    head.selector.sync(head.weight)
    return (index, head.selector.nprobe) if number(index.trained) and index.has_slots and not index.outdated else None


def nprobe_for(head, embeddings: Tensor, k: int, recall: float, candidates: int | None = None) -> tuple[int, float]:
    """The smallest power of two of lists with which ``head.recall_of_topk`` of embeddings [B, d] is at least
    ``recall``, or all lists, and what it is then. ValueError where even all of them do not reach it."""
    check_share("recall", recall)
    index, _ = _index_of(head)
    _, exact = head.topk(embeddings, k)
    nprobe = 1
    while (found := found_of(head, embeddings, exact, nprobe, candidates)) < recall and nprobe < index.nlist:
        nprobe = min(2 * nprobe, index.nlist)
    if found < recall:
        raise ValueError(
            f"recall is {recall:g}; with all {nprobe} lists and {check_candidates(candidates, k)} candidates "
            f"{found:.3f} are found: give more candidates"
        )
    return nprobe, found


def found_of(head, embeddings: Tensor, exact: Tensor, nprobe: int | None, candidates: int | None) -> float:
    """The part of the classes exact [B, k] that approximate search finds, mean over embeddings [B, d]."""
    return recall_of(head.topk(embeddings, exact.shape[1], True, nprobe, candidates)[1], exact)


def recall_of(found: Tensor, exact: Tensor) -> float:
    """The part (0 to 1) of the ids exact [B, k] that is among found [B, c] of the same row.

    Row by row: a table of all pairs [B, k, c] would take gigabytes where k is some thousands.
    """
    shares = [torch.isin(row, those).double().mean() for row, those in zip(exact, found, strict=True)]
    return torch.stack(shares).mean().item()


def _index_of(head) -> tuple[IVFBinaryIndex, int]:
    found = find_index(head)
    if found is None:
        raise ValueError(
            "approximate is True, but the head has no index of its classes as they are; call head.build_index() before"
        )
    return found
