"""Verification and identification as face recognition measures them, on embeddings and labels alone.

Verification asks of a pair whether both are of one class: accepted if its score (a cosine) is at least a threshold.
TAR, the true accept rate, is the part of the same pairs accepted; FAR, the false accept rate, that of the different
pairs. Identification looks for a probe's mate in a gallery full of distractors.

Sources: LFW (Huang et al. 2007) for the ten folds, IJB-A (Klare et al. 2015) for TAR at FAR, MegaFace
(Kemelmacher-Shlizerman et al. 2016) for the distractors. The thresholds are ours: every score, not a grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from annsoftmax_ref.checks import check_from_0, check_positive_int
from annsoftmax_ref.evaluation.retrieval import checked_rows, checked_samples, rows_at_a_time


class Pairs(NamedTuple):
    """first, second [count] int64, indices of samples with first < second; same [count] bool."""

    first: Tensor
    second: Tensor
    same: Tensor


class FoldAccuracy(NamedTuple):
    """``mean`` of ``accuracies`` [folds] and its ``standard_error`` (deviation / sqrt(folds), as LFW reports it)."""

    mean: float
    standard_error: float
    accuracies: list[float]
    thresholds: list[float]


class Identification(NamedTuple):
    """``rank1``: 0 to 1, over ``trials`` (probe, mate) pairs against ``distractors`` samples."""

    rank1: float
    trials: int
    distractors: int


def make_pairs(labels: Tensor, count: int, seed: int) -> Pairs:
    """labels [n] integers -> ``count`` different pairs of samples, half of one class and half of two.

    Both halves are drawn evenly, without repetition, from all pairs of their kind. They alternate (same, different,
    same, ...), so that consecutive folds are balanced. Raises ValueError if count is odd or more than the labels give.
    """
    count = check_positive_int("count", count)
    if count % 2:
        raise ValueError(f"count is {count}; it should be even, for as many same as different pairs")
    drawn = draw_pairs(labels, count // 2, count // 2, seed)
    found = int(drawn.same.sum())
    for kind, total in (("same", found), ("different", len(drawn.same) - found)):
        if total < count // 2:
            raise ValueError(
                f"count is {count}, which needs {count // 2} {kind} pairs, but labels gives {total}; "
                f"it should be at most {2 * total}"
            )
    turn = torch.arange(count).view(2, -1).T.flatten()
    return Pairs(*(part[turn] for part in drawn))


def draw_pairs(labels: Tensor, same: int, different: int, seed: int) -> Pairs:
    """labels [n] integers -> ``same`` pairs of one class, then ``different`` of two; of a kind that has fewer, all.

    Each is drawn evenly, without repetition, from all pairs of its kind.
    """
    seed = check_from_0("seed", seed)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dim() != 1:
        kind = f"{labels.dtype} {list(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels is of type {kind}; it should be a tensor [n] of integers")
    values = labels.cpu().numpy()
    order = values.argsort(kind="stable")
    position, end = np.arange(len(values)), np.searchsorted(values[order], values[order], side="right")
    rng = np.random.default_rng(seed)
    drawn = []
    # A sample in sorted order is paired with those after it: up to its class's end the same, from there different.
    for wanted, start, stop in ((same, position + 1, end), (different, end, len(values))):
        total = int((stop - start).sum())
        numbers = rng.choice(total, min(wanted, total), replace=False)
        drawn.append(_numbered_pairs(numbers, start, stop - start))
    a, b = (order[np.concatenate(side)] for side in zip(*drawn, strict=True))
    kind = torch.arange(len(a)) < len(drawn[0][0])
    return Pairs(torch.from_numpy(np.minimum(a, b)), torch.from_numpy(np.maximum(a, b)), kind)


def _numbered_pairs(numbers: np.ndarray, start: np.ndarray, partners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair number -> its positions, where position p has ``partners[p]`` partners from ``start[p]`` on."""
    total = partners.cumsum()
    a = np.searchsorted(total, numbers, side="right")
    return a, start[a] + numbers - (total[a] - partners[a])


def pair_scores(embeddings: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """embeddings [n, d], first and second [p] int64 -> the pairs' cosines [p]."""
    unit = checked_rows("embeddings", embeddings)
    parts = zip(*(index.to(unit.device).split(rows_at_a_time(unit.shape[1])) for index in (first, second)), strict=True)
    return torch.cat([(unit[a] * unit[b]).sum(dim=1) for a, b in parts])


def roc(scores, same) -> tuple[np.ndarray, np.ndarray]:
    """scores [p], same [p] bool -> far, tar [t] float64, both growing from 0 to 1.

    One point for each distinct score as threshold (so pairs of equal score are accepted together), from "none
    accepted" down to "all accepted". Raises ValueError unless there are pairs of both kinds.
    Derived in notebook 10, section "Judge pairs".
    """
    scores, same = _checked(scores, same, both=True)
    _, same_taken, different_taken = _accepted(scores, same)
    return different_taken / different_taken[-1], same_taken / same_taken[-1]


def tar_at_far(scores, same, fars: Sequence[float] = (1e-2, 1e-3, 1e-4)) -> dict[float, float | None]:
    """scores [p], same [p] bool -> for each far the largest TAR of all thresholds with FAR <= far.

    That is the threshold at the lowest score that still keeps to far; nothing is interpolated, and a tie at the
    threshold is refused whole if accepting it whole exceeds far. None where fewer than 1 / far different pairs make
    far too small to be measured. Raises ValueError without same pairs or for a far outside (0, 1].
    Derived in notebook 10, section "Judge pairs".
    """
    for far in fars:
        if not 0 < far <= 1:
            raise ValueError(f"fars holds {far}; each should be above 0 and at most 1")
    scores, same = _checked(scores, same)
    if not same.any():
        raise ValueError("same holds no pair of one class; TAR needs at least one")
    negatives = int((~same).sum())
    _, same_taken, different_taken = _accepted(scores, same)
    found: dict[float, float | None] = dict.fromkeys(fars)
    for far in fars:
        if negatives and 1 / negatives <= far:  # as quotients, so that 1 / 1000 and 1e-3 are the same number
            last = np.searchsorted(different_taken / negatives, far, side="right") - 1
            found[far] = float(same_taken[last] / same_taken[-1])
    return found


def ten_fold_accuracy(scores, same, folds: int = 10) -> FoldAccuracy:
    """Accuracy as on LFW: the pairs of each fold judged by the threshold that is best on all other folds.

    scores [p], same [p] bool, in folds of consecutive pairs (sizes differ by at most one), as LFW's lists come and
    as ``make_pairs`` orders them. The thresholds tried lie half-way between neighbouring scores and beyond both ends;
    of equally good ones the largest is taken. Raises ValueError for fewer pairs than folds, fewer than 2 folds, or
    unless there are pairs of both kinds. Derived in notebook 10, section "Choose the threshold on other pairs".
    """
    scores, same = _checked(scores, same, both=True)
    if check_positive_int("folds", folds) < 2 or folds > len(scores):
        raise ValueError(f"folds is {folds}; it should be 2 to {len(scores)}, the number of pairs")
    accuracies, thresholds = [], []
    for test in np.array_split(np.arange(len(scores)), folds):
        train = np.ones(len(scores), bool)
        train[test] = False
        thresholds.append(_best_threshold(scores[train], same[train]))
        accuracies.append(float(((scores[test] >= thresholds[-1]) == same[test]).mean()))
    error = float(np.std(accuracies, ddof=1) / np.sqrt(folds))
    return FoldAccuracy(float(np.mean(accuracies)), error, accuracies, thresholds)


def _best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
    cuts, same_taken, different_taken = _accepted(scores, same)
    best = int((same_taken - different_taken).argmax())  # right answers, less a constant; the first is the largest cut
    if best in (0, len(cuts) - 1):
        return float("inf") if best == 0 else float("-inf")
    half = (cuts[best] + cuts[best + 1]) / 2
    return float(half if half > cuts[best + 1] else cuts[best])  # neighbouring floats have no number between


def identification(embeddings: Tensor, labels: Tensor, distractors: int | Tensor, seed: int = 0) -> Identification:
    """Rank-1 identification as on MegaFace: is the probe's mate nearer than every distractor?

    embeddings [n, d], labels [n] integers. The gallery of a trial is one mate and all distractors, the same for every
    trial; each ordered pair of one class is a trial (a class of c samples gives c(c - 1)). The mate has to be strictly
    nearer: a tie is lost.

    distractors: [m, d], samples of other classes; or a number m to set aside from the embeddings: whole classes, in an
    order drawn by ``seed``, until they hold m samples (what is over is dropped), so that none is a probe's class.
    Raises ValueError if what is left has no class of two samples.
    Derived in notebook 10, section "Find one among many".
    """
    seed = check_from_0("seed", seed)
    unit, labels = checked_samples(embeddings, labels)
    if isinstance(distractors, Tensor):
        others = checked_rows("distractors", distractors).to(unit)
        if others.shape[1] != unit.shape[1] or len(others) == 0:
            raise ValueError(f"distractors has shape {list(others.shape)}; it should be [m >= 1, {unit.shape[1]}]")
    else:
        unit, labels, others = _set_aside(unit, labels, check_positive_int("distractors", distractors), seed)
    order = labels.argsort(stable=True)
    unit, counts = unit[order], labels[order].unique_consecutive(return_counts=True)[1]
    chunks = unit.split(rows_at_a_time(len(others)))
    worst = torch.cat([(part @ others.T).amax(dim=1) for part in chunks])  # each probe's nearest distractor
    hits = trials = 0
    for mine, limit in zip(unit.split(counts.tolist()), worst.split(counts.tolist()), strict=True):
        found = mine @ mine.T > limit.unsqueeze(1)
        hits += int(found.sum() - found.diagonal().sum())
        trials += len(mine) * (len(mine) - 1)
    if trials == 0:
        raise ValueError("labels has no class of two samples outside the distractors; a probe needs a mate")
    return Identification(hits / trials, trials, len(others))


def _set_aside(unit: Tensor, labels: Tensor, distractors: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """unit [n, d] -> the probes' rows and labels, and the rows of ``distractors`` samples of other classes."""
    if distractors >= len(labels):
        raise ValueError(f"distractors is {distractors}; it should be below {len(labels)}, the number of samples")
    _, number, counts = labels.unique(return_inverse=True, return_counts=True)
    classes = torch.from_numpy(np.random.default_rng(seed).permutation(len(counts))).to(labels.device)
    place = classes.argsort()  # of each class in that order
    needed = int((counts[classes].cumsum(0) < distractors).sum()) + 1
    order = place[number].argsort(stable=True)
    probe = place[number] >= needed
    return unit[probe], labels[probe], unit[order[:distractors]]


def _accepted(scores: np.ndarray, same: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds from inf down through the distinct scores; the same and the different pairs each accepts."""
    order = scores.argsort()[::-1]
    scores, taken = scores[order], same[order].cumsum()
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1) if len(scores) else np.empty(0, np.int64)
    zero = np.zeros(1, np.int64)
    same_taken = np.concatenate([zero, taken[last]])
    return np.concatenate([[np.inf], scores[last]]), same_taken, np.concatenate([zero, last + 1]) - same_taken


def _checked(scores, same, both: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """scores [p] -> float64, same [p] -> bool, as arrays."""
    scores, same = (x.detach().cpu() if isinstance(x, Tensor) else x for x in (scores, same))
    scores = scores.double() if isinstance(scores, Tensor) else scores  # NumPy has no bfloat16
    scores, same = np.asarray(scores, dtype=np.float64), np.asarray(same)
    if scores.ndim != 1 or same.shape != scores.shape:
        raise ValueError(
            f"scores has shape {list(scores.shape)} and same {list(same.shape)}; both should be [p], one entry a pair"
        )
    if same.dtype != bool:
        raise TypeError(f"same is of type {same.dtype}; it should be bool, True for a pair of one class")
    if not np.isfinite(scores).all():
        raise ValueError("scores holds NaN or infinite values; all of them should be finite")
    if both and (same.all() or not same.any()):
        kind = "no" if not len(same) else "only same" if same.all() else "only different"
        raise ValueError(f"same holds {kind} pairs; it should hold pairs of both kinds")
    return scores, same
