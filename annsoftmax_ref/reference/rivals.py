"""The rivals' candidates, written for reading: hash tables, a forest of random projections, a graph over labels
(NumPy, float64). Each gives every sample its classes, best first, -1 where there is none; `selection.union_active`
makes the active set of them. `annsoftmax_ref.rivals` says which paper each is from and what is ours.
"""

import math

import numpy as np

from .index import exact_order
from .objectives import check_ids, check_matrix, normalize

# ---------------------------------------------------------------------------------------- LSH


def simhash_codes(w, planes):
    """w [N, d], planes [L, K, d] -> codes [L, N]: bit j of table t's code is 1 where planes[t, j] . w_hat > 0

    Two rows at an angle a get the same code of K bits with probability (1 - a / pi)^K (Charikar 2002).
    Derived in notebook 03, section "Many bits, a bucket".
    """
    bits = np.einsum("lkd,nd->lkn", planes, normalize(check_matrix("w", w))) > 0
    return np.einsum("lkn,k->ln", bits, 1 << np.arange(planes.shape[1]))


def bucket_candidates(x, w, planes, k):
    """The first k classes that share a bucket with each sample.   x [B, d], w [N, d] -> [B, k]

    By the number of tables in which they share it, most first, ties to the lower id.
    Derived in notebook 03, section "An order among the found".
    """
    shared = (simhash_codes(x, planes)[:, :, None] == simhash_codes(w, planes)[:, None, :]).sum(axis=0)  # [B, N]
    everything = np.arange(len(w))
    ranked = [np.lexsort((everything, -row)) for row in shared]
    return _padded([order[row[order] > 0] for order, row in zip(ranked, shared, strict=True)], k)


# ---------------------------------------------------------------------------------------- forest


def tree_depth(N, leaf_size):
    """How often N classes are halved until no leaf holds more than `leaf_size` (at least 2)."""
    if leaf_size < 2:
        raise ValueError(f"leaf_size is {leaf_size}; it should be at least 2")
    return max(0, math.ceil(math.log2(N / leaf_size)))


def grow_tree(w, directions):
    """A tree of median splits.   w [N, d], directions [depth, d], one for each level

    A leaf is an array of class ids, ascending. Any other node is (direction, threshold, lower, upper): sorted by
    (direction . w_hat, id), the first ceil(n / 2) classes are below; the threshold is midway across the cut.
    Derived in notebook 03, section "Trees instead of planes".
    """
    w_hat = normalize(check_matrix("w", w))

    def split(members, level):
        if level == len(directions):
            return members
        projection = w_hat[members] @ directions[level]
        order = np.lexsort((members, projection))
        half = math.ceil(len(members) / 2)
        threshold = (projection[order[half - 1]] + projection[order[half]]) / 2
        lower, upper = np.sort(members[order[:half]]), np.sort(members[order[half:]])
        return directions[level], threshold, split(lower, level + 1), split(upper, level + 1)

    return split(np.arange(len(w_hat)), 0)


def leaf_of(node, query):
    """The classes of the leaf that the unit `query` [d] falls into."""
    while isinstance(node, tuple):
        direction, threshold, lower, upper = node
        node = upper if direction @ query > threshold else lower
    return node


def forest_candidates(x, w, trees, n):
    """The n nearest classes of each sample, by (-cosine, id), among its leaves of all trees.   -> [B, n]"""
    w_hat = normalize(check_matrix("w", w))
    found = []
    for query in normalize(check_matrix("x", x, columns=w_hat.shape[1])):
        members = np.unique(np.concatenate([leaf_of(tree, query) for tree in trees]))
        found.append(exact_order(query, w_hat, members)[0])
    return _padded(found, n)


# ---------------------------------------------------------------------------------------- label graph


def label_graph(w, k):
    """The k nearest other classes of each class, by (-cosine, id).   w [N, d] -> [N, k]

    Derived in notebook 03, section "Ask the label, not the drawing".
    """
    w_hat = normalize(check_matrix("w", w))
    if not 0 <= k < len(w_hat):
        raise ValueError(f"k is {k}; it should lie in 0..{len(w_hat) - 1}, the number of other classes")
    everything = np.arange(len(w_hat))
    rows = [exact_order(w_hat[c], w_hat, np.delete(everything, c))[0][:k] for c in everything]
    return np.stack(rows).astype(np.int64)


def label_candidates(labels, graph):
    """Each sample's classes are its label's row of the graph.   labels [B], graph [N, k] -> [B, k]"""
    return graph[check_ids("labels", labels, len(graph))]


def _padded(rows, k):
    """Rows of ids of any length -> [B, k], cut or filled up with -1."""
    table = np.full((len(rows), k), -1)
    for place, ids in zip(table, rows, strict=True):
        place[: len(ids)] = ids[:k]
    return table
