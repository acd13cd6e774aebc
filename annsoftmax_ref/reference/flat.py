"""Search without lists: every sample's code against the codes of all classes (NumPy, integers).

A query is 1 or 2 bit planes, a class one: its sign bits. The score is an integer, 0 .. most:

    score(q, c) = sum over planes p of 2^p (number of bits in which plane p of q and the code of c agree)
    most        = d (2^planes - 1)

Each sample asks for about k classes through a threshold of its own; a group of samples then keeps one byte a class,
from which its active set is taken: how far the class is above the threshold of the sample that wants it most.
"""

import math

import numpy as np

from .index import pack_bits
from .objectives import check_matrix

LEVEL, HIGHEST = 64, 254  # bytes: of a margin of 0, and the largest (255 is for labels)


def query_planes(queries, count):
    """Bit planes of queries.   [B, d] -> int64 [B, count, words]

    count 1: bit j = (q_j > 0). count 2: u_j = floor(q_j / step) + 2, cut to 0..3, with
    step = 0.9957 sqrt(mean_j q_j^2); plane p holds bit p of u_j. Then <q, signs> ~ step (score - 1.5 d).
    """
    queries = check_matrix("queries", queries)
    if count not in (1, 2):
        raise ValueError(f"count is {count}; it should be 1 or 2")
    if count == 1:
        return pack_bits(queries > 0)[:, None]
    step = 0.9957 * np.maximum(np.sqrt(np.mean(queries**2, axis=1, keepdims=True)), 1e-30)
    levels = np.clip(np.floor(queries / step) + 2, 0, 3).astype(np.int64)
    return np.stack([pack_bits(levels & 1), pack_bits(levels >> 1)], axis=1)


def flat_scores(planes, codes, d):
    """All scores.   [B, planes, words], [N, words] -> int64 [B, N]"""
    scores = np.zeros((len(planes), len(codes)), dtype=np.int64)
    signs = unpack_bits(codes, d)
    for p in range(planes.shape[1]):
        for b, bits in enumerate(unpack_bits(planes[:, p], d)):
            scores[b] += 2**p * (signs == bits).sum(axis=1)
    return scores


def unpack_bits(codes, d):
    """The inverse of `pack_bits`.   int64 [n, words] -> bool [n, d]"""
    return np.stack([codes[:, j // 64] >> (j % 64) & 1 for j in range(d)], axis=1).astype(bool)


def flat_thresholds(planes, codes, d, k, stride=1, first=0):
    """The score that about k classes reach, from the classes first, first + stride, ...   -> int64 [B]

    The ceil(k / stride)-th largest score in this sample; 0 where the sample is smaller.
    """
    if k < 1 or stride < 1 or not 0 <= first < min(stride, len(codes)):
        raise ValueError(
            f"k is {k}, stride is {stride}, first is {first}; they should be at least 1, at least 1, "
            f"and from 0 to less than the stride and the {len(codes)} classes"
        )
    scores = flat_scores(planes, codes[first::stride], d)
    rank = math.ceil(k / stride)
    if rank > scores.shape[1]:
        return np.zeros(len(planes), dtype=np.int64)
    return np.sort(scores, axis=1)[:, -rank]


def flat_map(planes, thresholds, codes, groups, d, shift=0):
    """One byte for each group and class.   groups: index arrays -> uint8 [G, N]

    64 + floor((max over the group's samples q of score(q, c) - threshold[q]) / 2^shift), cut to 0..254; 0 for an
    empty group.
    """
    margins = flat_scores(planes, codes, d) - np.asarray(thresholds, dtype=np.int64)[:, None]
    found = np.zeros((len(groups), len(codes)), dtype=np.uint8)
    for g, group in enumerate(groups):
        if len(group):
            found[g] = np.clip(LEVEL + np.floor_divide(margins[group].max(axis=0), 2**shift), 0, HIGHEST)
    return found
