"""Priority: a sample of all classes by their estimated logits, shared by a group.

Priority sampling (Duffield, Lund and Thorup, J. ACM 2007) with one estimated logit a class, found by the search or,
for all that were not found, measured on a few drawn ones; after "Attention via Black-Box Vector Search" (Zharkov et al.
2026), which has it for one query and exact scores. Ours: one sample for a group, quantised scores, positives always in.
NumPy twins: ``annsoftmax_ref.reference.estimators``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.active_sets import ActiveSets, draw_fill, first_unused
from annsoftmax_ref.beyond.drawn import draw_distinct, scaled_cosines
from kernels_inline.weighted_ops import priority_active as priority_active_by_kernel

PILOT = 256  # classes drawn a step, to know what score those have that no sample found


@dataclass(frozen=True)
class Priority:
    """Takes twice the candidates of the union, which chance may leave out, in the order of their scores."""

    def active_sets(self, selector, groups, x, labels, weight, generator) -> ActiveSets:
        """As ``Selector.select``, for groups [G, b] of samples, as ``ActiveSets`` has them."""
        n, count, index = selector.num_classes, selector.places_for(labels), selector.index
        k = selector.candidates_per_sample(groups.shape[1], times=2)
        found, scores = index.search(x, weight, k, selector.nprobe, selector.rerank)
        logits = selector.scale * index.as_cosines(scores, selector.rerank)
        pilot = draw_distinct(n, min(PILOT, n), generator).to(x.device)
        draws, fill = draw_priority(groups, k, count, n, generator, x.device)
        classes, targets, log_weights = priority_active(
            found,
            logits,
            selector.labels_here(labels, groups, fill),
            groups,
            pilot,
            scaled_cosines(x, weight, pilot, selector.scale),
            draws,
            fill,
            count,
            n,
        )
        return ActiveSets(groups, classes, targets, log_weights.to(x.dtype))


def draw_priority(
    groups: Tensor, k: int, count: int, num_classes: int, generator: torch.Generator, device=None
) -> tuple[Tensor, Tensor]:
    """For groups [G, b] of samples with k candidates each: draws [G, b k + count + 1], exponential, of mean 1, and
    fill_order [G, L].

    fill_order has so many classes that ``count`` + 1 that no sample found are very likely among them, however few of
    its candidates a group shares.
    """
    most = groups.shape[1] * k
    draws = torch.empty(len(groups), most + count + 1, dtype=torch.float64).exponential_(generator=generator)
    unfound = max(1, num_classes - most - groups.shape[1])
    wanted = math.ceil((count + 1) * num_classes / unfound)
    return draws.to(device), draw_fill(num_classes, min(num_classes, wanted), generator, len(groups), device)


def priority_active(
    candidates: Tensor,
    logits: Tensor,
    labels: Tensor,
    samples: Tensor,
    pilot: Tensor,
    pilot_logits: Tensor,
    draws: Tensor,
    fill_order: Tensor,
    count: int,
    num_classes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """For each group its labels' classes, and a priority sample of all others: exactly ``count`` classes.

    candidates [B, k], -1 where there is none, and their estimated logits [B, k]; labels [B]; samples [G, b]: each
    group's positions in the batch, -1 where there is none; pilot [p]: classes drawn uniformly, and their logits
    [B, p]; draws and fill_order: by ``draw_priority``. A class's score is e to its largest logit over the group; one
    that no sample found has the mean score of the pilot's classes that were not found. Classes not found share one
    score, so that only the smallest of their uniforms are drawn.
    Returns classes [G, count] ascending, targets [G, b], log-weights [G, count] (float64), 0 for labels.
    Raises ValueError if the labels alone are more than ``count`` classes.
    """
    if backend.runs(priority_active_by_kernel, candidates, logits, pilot_logits):
        return priority_active_by_kernel(
            candidates.contiguous(),
            logits.contiguous(),
            labels.contiguous(),
            samples,
            fill_order,
            pilot,
            pilot_logits,
            draws,
            count,
            num_classes,
        )
    targets = torch.full_like(samples, -1)
    most = samples.shape[1] * candidates.shape[1]  # candidates of a group
    classes, log_weights = [], []
    for group, places, exponentials, fill in zip(samples, targets, draws, fill_order, strict=True):
        own = group[group >= 0]
        chosen, places[group >= 0], weights = _priority_of_group(
            candidates[own],
            logits[own],
            labels[own],
            pilot,
            pilot_logits[own],
            exponentials.split([most, count + 1]),
            fill,
            count,
            num_classes,
        )
        classes.append(chosen)
        log_weights.append(weights)
    return torch.stack(classes), targets, torch.stack(log_weights)


def _priority_of_group(
    candidates: Tensor,
    logits: Tensor,
    labels: Tensor,
    pilot: Tensor,
    pilot_logits: Tensor,
    draws: tuple[Tensor, Tensor],
    fill_order: Tensor,
    count: int,
    num_classes: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for candidates [b, k], logits [b, k], labels [b] and pilot_logits [b, p] of one group."""
    best = _best_logits(candidates, logits, labels, num_classes)  # [N]
    known = (best > -torch.inf).nonzero().squeeze(1)
    scores = best[known].double()
    positives, found, scores = known[scores == torch.inf], known[scores < torch.inf], scores[scores < torch.inf]
    places = count - len(positives)
    if places < 0:
        raise ValueError(
            f"labels holds {len(positives)} distinct classes, more than the {count} active classes of a "
            "group; raise sample_rate or lower the batch size"
        )
    fresh = best[pilot] == -torch.inf
    floor = _floor(pilot_logits.double().amax(dim=0)[fresh], scores)
    unfound = num_classes - len(known)
    extra = min(unfound, places + 1)  # no more of them can be among the kept, or be the threshold
    uniforms = torch.cat([(-draws[0][: len(found)]).exp(), smallest_uniforms(unfound, draws[1][:extra])])
    others = torch.cat([found, first_unused(fill_order, best > -torch.inf, extra)])
    kept, log_weights = priority_keep(torch.cat([scores, floor.expand(extra)]), uniforms, places)
    return _in_order(
        torch.cat([positives, others[kept]]), torch.cat([log_weights.new_zeros(len(positives)), log_weights]), labels
    )


def priority_keep(log_scores: Tensor, uniforms: Tensor, places: int) -> tuple[Tensor, Tensor]:
    """The ``places`` largest of the priorities score / u, and minus the logarithm of each one's chance to be kept.

    log_scores [n], uniforms [n] in (0, 1] -> kept [K] positions, -log p [K], K = min(places, n). With tau the next
    priority, p = min(1, score / tau): the chance that u < score / tau, given all the others' priorities.
    """
    if len(log_scores) <= places:
        return torch.arange(len(log_scores), device=log_scores.device), torch.zeros_like(log_scores)
    best = (log_scores - uniforms.log()).topk(places + 1)
    kept = best.indices[:places]
    return kept, (best.values[places] - log_scores[kept]).clamp_min(0)


def smallest_uniforms(total: int, exponentials: Tensor) -> Tensor:
    """exponentials [m] (independent, of mean 1) -> the m smallest of ``total`` uniforms, ascending [m].

    The gaps between sorted exponential variables are exponential too, of mean 1 / (number still to come) (Renyi 1953),
    and 1 - e^-E is uniform.
    """
    still = total - torch.arange(len(exponentials), dtype=exponentials.dtype, device=exponentials.device)
    return -torch.expm1(-(exponentials / still).cumsum(0))


def _best_logits(candidates: Tensor, logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Every class's largest logit over the samples [N]; inf for a label, -inf for a class that none found."""
    best = torch.full((num_classes + 1,), -torch.inf, dtype=logits.dtype, device=logits.device)
    # -1 goes to the spare place N, which is dropped.
    places = torch.where(candidates < 0, num_classes, candidates)
    best.scatter_reduce_(0, places.reshape(-1), logits.reshape(-1), "amax")
    best[labels] = torch.inf
    return best[:num_classes]


def _floor(pilot: Tensor, scores: Tensor) -> Tensor:
    """Logarithm of the mean of e^pilot, the scores [p] of drawn classes that were not found; a scalar."""
    if len(pilot):
        return pilot.logsumexp(0) - math.log(len(pilot))
    # Next to everything was found: as if the others were like the worst of these.
    return scores.min() if len(scores) else scores.new_zeros(())


def _in_order(classes: Tensor, log_weights: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By ascending class: classes [A], targets [b] (where the labels are among them), log-weights [A]."""
    classes, order = classes.sort()
    return classes, torch.searchsorted(classes, labels), log_weights[order]
