"""Active classes that stand for those left out: log-weights that keep the partition function unbiased (NumPy, float64).

A class that is active with probability p counts 1 / p when it is: E[sum_active e^{l_c} / p_c] = sum_c e^{l_c} = Z,
for any p > 0. In logits that is l_c - log p_c. Randomness comes in as ready-made draws.
"""

import numpy as np

from .objectives import check_ids, check_matrix, log_sum_exp
from .selection import union_active


def uniform_tail(searched, fill_order, A, N):
    """The searched classes for themselves, and a uniform sample of the others for all others.   -> active, log_weights

    searched [n] ids, n <= A; fill_order: ids in a random order, of which the first A - n = l others are taken, each
    with probability l / (N - n).   active [A] ascending, log_weights [A]: log((N - n) / l) for these (Levy, Chan,
    Ermon 2018: Z_hat = sum_searched e^l_c + (N - n) / l sum_tail e^l_c)
    Derived in notebook 02, section "Count each drawn class for those left out".
    """
    searched = np.unique(check_ids("searched", searched, N))
    active, _ = union_active(searched[None], searched[:1], fill_order, A, N)
    drawn = ~np.isin(active, searched)
    if not drawn.any():
        return active, np.zeros(A)
    return active, np.where(drawn, np.log((N - len(searched)) / drawn.sum()), 0.0)


def far_offsets(means, sizes, assignment, active, scale):
    """What to add to the logits scale * (mean row . x) for them to stand for the classes not active.   -> [L]

    means [L, d]: mean unit rows of the lists; sizes [L]: classes in each; assignment [N]: each class's list; active
    [A] ids. The n classes that list l leaves out count as n rows spread about its mean row m alike in all directions,
    with variance (1 - |m|^2) / d: sum e^{s w.x} = n e^{s m.x + s^2 (1 - |m|^2) / 2 d}. -inf where n is 0.
    Derived in notebook 06, section "The far classes, a list at a time".
    """
    means = check_matrix("means", means)
    L, d = means.shape
    left = np.asarray(sizes) - np.bincount(np.asarray(assignment)[active], minlength=L)
    with np.errstate(divide="ignore"):
        return np.log(left) + scale**2 * (1 - np.sum(means**2, axis=1)) / (2 * d)


def priority_sample(scores, uniforms, K):
    """Priority sampling (Duffield, Lund, Thorup 2007).   scores [n] > 0, uniforms [n] in (0, 1] -> kept, p

    The K largest priorities score / u are kept; tau is the next one. Given the other priorities, an item is kept
    when score / u > tau, with probability p = min(1, score / tau). kept: positions, largest priority first; p [K].
    With no more than K items all are kept, p = 1.
    Derived in notebook 02, section "Search some, and sample the rest".
    """
    scores, uniforms = np.asarray(scores, dtype=np.float64), np.asarray(uniforms, dtype=np.float64)
    if not (scores > 0).all() or not ((uniforms > 0) & (uniforms <= 1)).all():
        raise ValueError("scores or uniforms hold a number out of range; scores should be above 0, uniforms in (0, 1]")
    if len(scores) <= K:
        return np.arange(len(scores)), np.ones(len(scores))
    priorities = scores / uniforms
    order = np.argsort(-priorities, kind="stable")
    tau = priorities[order[K]]
    kept = order[:K]
    return kept, np.minimum(1.0, scores[kept] / tau)


def group_scores(candidates, logits, floor, N):
    """A score for every class from the candidates of a group.   candidates, logits [b, k], -1 for missing -> [N]

    e^{largest logit} over the samples that found it; e^{floor} for a class that none found.
    """
    scores = np.full(N, np.exp(floor))
    for c in np.unique(candidates[candidates >= 0]):
        scores[c] = np.exp(logits[candidates == c].max())
    return scores


def log_partition(logits, log_weights):
    """log Z as the active classes give it.   logits [b, A], log_weights [A] -> [b]"""
    return log_sum_exp(logits + log_weights)


def with_log_weights(objective, log_weights, scale):
    """The objective (z, target) -> (loss, dz), with log_weights [A] added to its logits scale * z.

    A log-weight over the scale is a shift of the cosine, which leaves the slopes alone. Targets have weight 0, so
    that no margin sees a shifted cosine.
    """
    return lambda z, target: objective(z + log_weights / scale, target)
