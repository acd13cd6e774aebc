"""Which classes a batch is scored against: sample groups, and one active set for each (NumPy, float64).

A places shared by a group of g samples let each sample bring about A / g candidates of its own. Smaller groups
therefore recall more of every sample's important classes for the same work. ANN Softmax groups samples so that more
is recalled; that each group has an active set of its own, and how samples are split, are our choice.

No correction for the left-out classes is made: the loss is the softmax over the active set.
"""

import math

import numpy as np

from .objectives import active_loss, check_ids, check_matrix, normalize


def active_count(N, rate):
    """A, the number of active classes: floor(rate * N + 1/2), at least 1 and at most N."""
    if N < 1:
        raise ValueError(f"N is {N}; it should be at least 1")
    if not 0 < rate <= 1:
        raise ValueError(f"rate is {rate}; it should lie in (0, 1]")
    return min(N, max(1, math.floor(rate * N + 0.5)))


# ---------------------------------------------------------------------------------------- groups


def group_sizes(batch, num_groups):
    """Sizes of min(num_groups, batch) groups, larger ones first, that differ by at most one."""
    if batch < 1:
        raise ValueError(f"batch is {batch}; it should be at least 1")
    if num_groups < 1:
        raise ValueError(f"num_groups is {num_groups}; it should be at least 1")
    count = min(num_groups, batch)
    small, larger = divmod(batch, count)
    return [small + 1] * larger + [small] * (count - larger)


def random_groups(batch, num_groups, permutation):
    """A permutation of 0..batch-1, cut into consecutive groups (first groups larger).   -> list of arrays

    Derived in notebook 06, section "Groups at random".
    """
    sizes = group_sizes(batch, num_groups)
    permutation = check_ids("permutation", permutation, batch, length=batch)
    if len(np.unique(permutation)) != batch:
        raise ValueError(f"permutation repeats an index; it should hold each of 0..{batch - 1} once")
    return np.split(permutation, np.cumsum(sizes)[:-1])


def main_direction(points, iterations=3):
    """About the unit direction [d] of largest variance of points [n, d], by the power method.

    It starts at the point farthest from the mean (the first, if tied) and is multiplied by the scatter matrix
    `iterations` times; 0 where all points are the same.
    """
    centred = points - points.mean(axis=0)
    direction = centred[np.argmax(np.sum(centred**2, axis=1))]
    for _ in range(iterations):
        direction = centred.T @ (centred @ direction)
        direction = direction / max(np.linalg.norm(direction), 1e-300)
    return direction


def similar_groups(x, num_groups, iterations=3):
    """Groups of similar samples by repeated halving.   x [B, d] -> list of ascending index arrays

    With G = min(num_groups, B): the batch is put in an order, and the order is cut into G groups (`group_sizes`).
    The order: a part with room for 2 n samples (at first, 2 n is B rounded up to a multiple of the least power of
    two that is not below G)
      1. is sorted along the `main_direction` of its unit rows; equals keep their order;
      2. is split: the first n samples are one part with room for n, the others another;
    and so on, until there are as many parts as that power of two.
    Derived in notebook 06, section "Groups of similar samples".
    """
    x_hat = normalize(check_matrix("x", x))
    sizes = group_sizes(len(x_hat), num_groups)
    parts = 2 ** math.ceil(math.log2(len(sizes)))

    def ordered(samples, room, parts):
        if parts == 1 or len(samples) == 0:
            return samples
        points = x_hat[samples]
        along = (points - points.mean(axis=0)) @ main_direction(points, iterations)
        samples = samples[np.argsort(along, kind="stable")]
        halves = samples[: room // 2], samples[room // 2 :]
        return np.concatenate([ordered(half, room // 2, parts // 2) for half in halves])

    order = ordered(np.arange(len(x_hat)), parts * math.ceil(len(x_hat) / parts), parts)
    return [np.sort(group) for group in np.split(order, np.cumsum(sizes)[:-1])]


# ---------------------------------------------------------------------------------------- active set


def union_active(candidates, labels, fill_order, A, N):
    """The active set of one group: exactly A of the N classes, and where each label sits in it.

    candidates [b, k]: class ids, best first, -1 for missing; labels [b]; fill_order [L]: ids to try in order.
    Returns active [A] ascending, target [b] with active[target] == labels. The A places go, in turn:
      1. to every label (ValueError if there are more than A distinct ones);
      2. to candidates by their best rank (column) over the samples, ties to the lower id;
      3. to `fill_order`, in order;   4. to the lowest ids still out.
    Derived in notebook 06, section "Fill up".
    """
    if not 1 <= A <= N:
        raise ValueError(f"A is {A}; it should lie in 1..{N}, the number of classes")
    labels = check_ids("labels", labels, N)
    candidates = np.asarray(candidates)
    if candidates.ndim != 2 or len(candidates) != len(labels) or len(labels) == 0:
        raise ValueError(
            f"candidates has shape {candidates.shape} for {len(labels)} labels; it should "
            "have one row for each label, and at least one"
        )
    best_rank = np.full(N, candidates.shape[1])  # as yet: worse than any real rank
    for rank in reversed(range(candidates.shape[1])):  # a better rank overwrites a worse one
        column = check_ids("candidates", candidates[:, rank], N, lower=-1)
        best_rank[column[column >= 0]] = rank
    by_rank = np.argsort(best_rank, kind="stable")  # ties to the lower id
    retrieved = by_rank[best_rank[by_rank] < candidates.shape[1]]
    chosen = np.zeros(N, dtype=bool)
    chosen[labels] = True
    distinct = int(chosen.sum())
    if distinct > A:
        raise ValueError(f"labels hold {distinct} distinct classes; they should fit into A = {A}")
    places = A - distinct
    for c in np.concatenate([retrieved, check_ids("fill_order", fill_order, N), np.arange(N)]):
        if places == 0:
            break
        if not chosen[c]:
            chosen[c] = True
            places -= 1
    active = np.flatnonzero(chosen)
    return active, np.searchsorted(active, labels)


def grouped_loss(x, w, labels, groups, actives, objective):
    """Loss and gradients of a whole batch whose groups have active sets of their own.

    x [B, d], w [N, d], labels [B], groups: index arrays that partition 0..B-1, actives: ascending class ids
    for each group, its labels among them. Returns loss (mean over the batch), dx [B, d], dw [N, d] (zero
    where no group scored the row). A group of b samples counts b / B, since its own loss is a mean over b.
    Derived in notebook 06, section "The loss of a grouped batch".
    """
    x = check_matrix("x", x)
    w = check_matrix("w", w, columns=x.shape[1])
    labels = check_ids("labels", labels, len(w), length=len(x))
    if len(groups) != len(actives) or not np.array_equal(np.sort(np.concatenate(groups)), np.arange(len(x))):
        raise ValueError(
            f"groups ({len(groups)}, for {len(actives)} active sets) should hold each of "
            f"0..{len(x) - 1} once, with one active set a group"
        )
    loss, dx, dw = 0.0, np.zeros_like(x), np.zeros_like(w)
    for group, active in zip(groups, actives, strict=True):
        target = np.searchsorted(active, labels[group])
        if not np.array_equal(np.take(active, target, mode="clip"), labels[group]):
            raise ValueError("actives lack a label of their group; each should hold all of them, ascending")
        part, dx_group, dw_rows = active_loss(x[group], w, target, active, objective)
        share = len(group) / len(x)
        loss += share * part
        dx[group] = share * dx_group
        dw[active] += share * dw_rows  # groups may share classes: add
    return loss, dx, dw
