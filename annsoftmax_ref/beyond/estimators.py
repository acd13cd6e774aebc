"""Active sets whose classes stand for those left out, so that the partition function is estimated without bias.

Scored against some classes only, a sample's partition function Z = sum_c e^{s z_c} comes out too small. Both samplers
here put classes in at random, with a known chance p_c > 0 for every class, and give each the log-weight -log p_c: then
the expectation of sum_c e^{s z_c - log p_c} over the active set is Z, whatever the scores that p came from.

``tail_active``: the searched classes for themselves, and a uniform sample of the others for all of those (LSH Softmax,
Levy, Chan and Ermon, ICLR 2018 submission; Mussmann, Levy and Ermon, UAI 2017). ``priority_active``: priority sampling
(Duffield, Lund and Thorup, J. ACM 2007) with one estimated logit a class, found by the search or, for all that were
not found, measured on a few drawn ones; after "Attention via Black-Box Vector Search" (Zharkov et al. 2026), which has
it for one query and exact scores. Ours: one sample for a group, quantised scores, positives always in. NumPy twins:
``annsoftmax_ref.reference.estimators``. Costs: a pass over N flags or scores a group, as any union, and random numbers
and sorting for O(A) classes, not N.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from annsoftmax_ref.active_sets import draw_fill, union_active


def draw_distinct(total: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` distinct numbers of 0..total-1 in a random order [count], uniformly; costs O(count log count)."""
    drawn = draw_fill(total, count, generator).unique()
    if len(drawn) < count:
        drawn = torch.arange(total)
    # Which numbers turned up depends on none of them being special, so that a random part of them is uniform.
    return drawn[torch.randperm(len(drawn), generator=generator)[:count]]


def draw_outside(inside: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """inside [N] bool -> ``count`` distinct classes that are not in it, uniformly, in a random order [count]."""
    others = (~inside).nonzero().squeeze(1)
    return others[draw_distinct(len(others), count, generator).to(inside.device)]


def tail_active(
    candidates: Tensor, labels: Tensor, count: int, tail: float, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Searched classes S, and a uniform sample of the classes outside S: exactly ``count`` classes.

    candidates [b, k]: each sample's classes, nearest first, -1 where there is none. labels [b].
    S: labels and candidates, cut by rank to (1 - tail) * count; what it leaves free, at least one place, is the tail's.
    Positives come first: where they leave no place, there is no tail, and what is left out is not stood for.
    Returns classes [count] ascending, targets [b], log-weights [count] (float64): 0 in S, log((N - |S|) / l) for
    each of the l others.
    """
    inside = torch.zeros(num_classes + 1, dtype=torch.bool, device=labels.device)
    inside[labels] = True
    positives = int(inside.sum())
    inside[candidates] = True  # -1 is the spare place at the end
    wanted = count - max(1, math.floor(tail * count + 0.5))
    # Never above count, where union_active refuses too many labels.
    kept = min(count, int(inside[:-1].sum()), max(wanted, positives))
    searched, _ = union_active(candidates, labels, labels.new_empty(0), kept, num_classes)
    # What fills a union up is a uniform sample of the classes outside it.
    fill = draw_fill(num_classes, count, generator).to(labels.device)
    classes, _ = union_active(searched.unsqueeze(0), searched[:1], fill, count, num_classes)
    places = count - kept
    each = math.log((num_classes - kept) / places) if places else 0.0
    log_weights = torch.full((count,), each, dtype=torch.float64, device=labels.device)
    log_weights[torch.searchsorted(classes, searched)] = 0.0
    return classes, torch.searchsorted(classes, labels), log_weights


def priority_active(
    candidates: Tensor,
    logits: Tensor,
    labels: Tensor,
    pilot: Tensor,
    pilot_logits: Tensor,
    count: int,
    num_classes: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """The labels' classes, and a priority sample of all others, shared by the group: exactly ``count`` classes.

    candidates [b, k], -1 where there is none, and their estimated logits [b, k]; labels [b]; pilot [p]: classes
    drawn uniformly, and their logits [b, p]. A class's score is e to its largest logit over the group; one that no
    sample found has the mean score of the pilot's classes that were not found. Classes not found share one
    score, so that only the smallest of their uniforms are drawn.
    Returns classes [count] ascending, targets [b], log-weights [count] (float64), 0 for labels.
    """
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
    draws = 1 - torch.rand(len(found) + extra, generator=generator, dtype=torch.float64)  # in (0, 1]
    uniforms = torch.cat([draws[: len(found)], smallest_uniforms(unfound, -draws[len(found) :].log())])
    others = torch.cat([found, draw_outside(best > -torch.inf, extra, generator)])
    kept, log_weights = priority_keep(torch.cat([scores, floor.expand(extra)]), uniforms.to(labels.device), places)
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
