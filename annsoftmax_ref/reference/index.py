"""The index over the class weights: an inverted file of sign-bit codes (NumPy, float64).

    k-means    cuts the N unit rows into nlist lists, each with a unit centroid   (the inverted file)
    encode     keeps one bit for each dimension: the sign                        (the binary quantization)
    search     nprobe nearest lists -> k smallest Hamming distances in them -> exact cosines, re-ordered

The angle between two vectors shows in their signs: under a random rotation each bit differs with
probability angle / pi (Goemans & Williamson 1995; Charikar 2002), so Hamming distance ranks by angle.
Derived in notebook 04, section "Why differing bits measure an angle".
The ANN Softmax paper names the parts; their details (bits, ties, centring, re-ranking) are our choice.
"""

import numpy as np

from .objectives import check_ids, check_matrix, normalize

WORD = 64  # bits in one packed word


# ---------------------------------------------------------------------------------------- lists


def kmeans_init(w, nlist, rng):
    """First centroids: `nlist` distinct rows of w, at random, made unit.   w [N, d] -> [nlist, d]"""
    w = check_matrix("w", w)
    if not 1 <= nlist <= len(w):
        raise ValueError(f"nlist is {nlist}; it should lie in 1..{len(w)}, the number of rows of w")
    return normalize(w[rng.choice(len(w), size=nlist, replace=False)])


def assign(w, centroids):
    """The list of each row: the centroid of largest cosine, ties to the lowest list.   w [N, d] -> [N]"""
    return np.argmax(normalize(w) @ np.asarray(centroids).T, axis=1)  # argmax returns the first of equals


def kmeans_step(w, centroids, assignment=None):
    """One round of spherical k-means (Dhillon & Modha 2001).   w [N, d], centroids [nlist, d] -> [nlist, d]

    Each centroid becomes the sum of its list's unit rows, made unit again. A list that is empty, or whose
    rows cancel to zero, keeps its old centroid. assignment [N]: each row's list, the nearest if not given.
    Derived in notebook 05, section "Cut the rows into lists".
    """
    w_hat, assignment = normalize(w), assign(w, centroids) if assignment is None else assignment
    updated = np.array(centroids, dtype=np.float64)
    for l in range(len(updated)):  # noqa: E741
        total = w_hat[assignment == l].sum(axis=0)  # [d]; zeros for an empty list
        if np.linalg.norm(total) > 1e-12:
            updated[l] = normalize(total)
    return updated


def spherical_kmeans(w, nlist, iterations, rng=None, init=None):
    """`iterations` rounds from `init` [nlist, d], or from rows drawn with `rng`.   w [N, d] -> [nlist, d]"""
    if init is None and rng is None:
        raise ValueError("rng and init are both missing; spherical_kmeans should be given one of them")
    w = check_matrix("w", w)
    if init is None:
        init = kmeans_init(w, nlist, rng)
    centroids = normalize(check_matrix("init", init, columns=w.shape[1]))
    if len(centroids) != nlist:
        raise ValueError(f"init has {len(centroids)} rows; it should have nlist = {nlist}")
    for _ in range(iterations):
        centroids = kmeans_step(w, centroids)
    return centroids


def build_lists(assignment, nlist):
    """The inverted file.   assignment [N] -> order [N], start [nlist + 1]

    List l holds the class ids order[start[l]:start[l + 1]], ascending.
    Derived in notebook 05, section "Write the inverted file".
    """
    assignment = check_ids("assignment", assignment, nlist)
    order = np.argsort(assignment, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(assignment, minlength=nlist))])
    return order, start


# ------------------------------------------------------------------- lists of very many rows


def shortlists(centroids, groups, length, iterations=3):
    """Lists near each other, so that a row need not be compared with all of them.

    centroids [nlist, d] -> centres [groups, d], made of the first centroids by k-means over all of them; and near
    [groups, length], ascending: the lists whose centroids are nearest to each centre (ties to the lowest).
    """
    centres = spherical_kmeans(centroids, groups, iterations, init=centroids[:groups])
    near = np.argsort(-(centres @ np.asarray(centroids).T), axis=1, kind="stable")[:, :length]
    return centres, np.sort(near, axis=1)


def assign_by_shortlist(w, centroids, centres, near):
    """The nearest of the lists near the row's nearest centre, ties to the lowest: that of ``assign`` for most rows.

    w [N, d] -> [N], for groups + length dot products a row where ``assign`` takes nlist.
    """
    near = near[assign(w, centres)]  # [N, length]
    cosines = np.einsum("nd,nkd->nk", normalize(w), np.asarray(centroids)[near])
    return near[np.arange(len(near)), np.argmax(cosines, axis=1)]


# ---------------------------------------------------------------------------------------- codes


def random_rotation(d, rng):
    """A random orthogonal matrix [d, d]: QR of a Gaussian one, signs fixed so that it is uniform."""
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return q * np.sign(np.diag(r))


def pack_bits(bits):
    """Bits [..., d] -> int64 words [..., ceil(d / 64)]: bit j sits in word j // 64 at position j % 64.

    The trailing bits of the last word are 0. Words are signed only because torch has no unsigned ones.
    Derived in notebook 04, section "Pack the bits into words".
    """
    bits = np.asarray(bits, dtype=bool)
    d = bits.shape[-1]
    words = np.zeros(bits.shape[:-1] + (-(-d // WORD),), dtype=np.uint64)
    for j in range(d):
        words[..., j // WORD] |= bits[..., j].astype(np.uint64) << np.uint64(j % WORD)
    return words.view(np.int64)


def encode(w, rotation=None, centroid=None):
    """Sign-bit codes of the rows of w.   w [N, d] -> int64 [N, ceil(d / 64)]

        v = (w_hat - centroid) @ rotation,   bit j = (v_j > 0)
    `centroid` [d] or [N, d] is the centroid of each row's list (residual codes); `rotation` is [d, d].
    """
    v = normalize(w)
    if centroid is not None:
        v = v - centroid
    if rotation is not None:
        v = v @ rotation
    return pack_bits(v > 0)


def hamming(a_codes, b_codes):
    """Number of differing bits, all pairs.   [B, words], [N, words] -> int64 [B, N]

    Derived in notebook 04, section "Count the differing bits".
    """
    differing = a_codes[:, None, :] ^ b_codes[None, :, :]  # [B, N, words]
    return np.bitwise_count(differing.view(np.uint64)).sum(axis=-1, dtype=np.int64)


def asymmetric_scores(queries, codes):
    """<q, signs> with q rounded to 16 levels, all pairs.   [B, d], [N, words] -> [B, N]

        step = max|q| / 8,   q_j ~ step (floor(q_j / step) + 1/2), levels -8..7,   signs_j = +1 where bit j is set,
    else -1. Only the class is reduced to signs; the query keeps 4 bits a number (RaBitQ, Gao and Long 2024).
    Derived in notebook 04, section "Let the query keep its numbers".
    """
    step = np.abs(queries).max(axis=1, keepdims=True) / 8
    rounded = step * (np.clip(np.floor(queries / step), -8, 7) + 0.5)
    bits = np.unpackbits(np.ascontiguousarray(codes).view(np.uint8), axis=1, bitorder="little")[:, : queries.shape[1]]
    return rounded @ (2.0 * bits - 1).T


# ---------------------------------------------------------------------------------------- search


def first_k(k, ids, scores):
    """The first k of the sorted candidates, padded with id -1 and score -inf.   -> [k], [k]"""
    missing = max(0, k - len(ids))
    return (
        np.concatenate([ids[:k], np.full(missing, -1)]).astype(np.int64),
        np.concatenate([scores[:k], np.full(missing, -np.inf)]),
    )


def exact_order(query, w_hat, ids):
    """`ids` ordered by falling cosine with the unit `query` [d], ties to the lower id.   -> ids, cosines"""
    cosines = np.sum(w_hat[ids] * query, axis=-1)  # row by row: equal rows tie exactly
    order = np.lexsort((ids, -cosines))  # the last key is the first to decide
    return ids[order], cosines[order]


def search(x, w, centroids, assignment, codes, k, nprobe, rotation=None, centred=False, rerank=True):
    """The k nearest classes of each sample, approximately.

    x [B, d], w [N, d], centroids [nlist, d] unit rows, assignment [N], codes [N, words] made by `encode` with
    the same rotation (and with centroid=centroids[assignment] if `centred`).
    Returns ids [B, k] int64 and scores [B, k]: cosines, best first, or minus the Hamming distance when
    `rerank` is off. Where the probed lists hold fewer than k classes the rest is id -1, score -inf.
    Derived in notebook 05, section "Scan the nearest lists".
    """
    x = check_matrix("x", x)
    w = check_matrix("w", w, columns=x.shape[1])
    centroids = check_matrix("centroids", centroids, columns=x.shape[1])
    if not 1 <= nprobe <= len(centroids):
        raise ValueError(f"nprobe is {nprobe}; it should lie in 1..{len(centroids)}, the number of lists")
    if k < 1:
        raise ValueError(f"k is {k}; it should be at least 1")
    x_hat, w_hat = normalize(x), normalize(w)
    assignment = check_ids("assignment", assignment, len(centroids), length=len(w))
    order, start = build_lists(assignment, len(centroids))
    found = []
    for query in x_hat:
        nearest_first = np.argsort(-(centroids @ query), kind="stable")  # ties to the lowest list
        ids, distances = [], []
        for l in nearest_first[:nprobe]:  # noqa: E741
            members = order[start[l] : start[l + 1]]
            query_code = encode(query[None], rotation, centroids[l] if centred else None)
            ids.append(members)
            distances.append(hamming(query_code, codes[members])[0])
        ids, distances = np.concatenate(ids), np.concatenate(distances)
        kept = np.lexsort((ids, distances))[:k]  # by (distance, class id)
        if rerank:
            found.append(first_k(k, *exact_order(query, w_hat, ids[kept])))
        else:
            found.append(first_k(k, ids[kept], -distances[kept].astype(np.float64)))
    ids, scores = zip(*found, strict=True)
    return np.stack(ids), np.stack(scores)


def brute_force(x, w, k):
    """The k nearest classes of each sample, exactly, by (-cosine, id).   -> ids [B, k], cosines [B, k]"""
    x = check_matrix("x", x)
    w = check_matrix("w", w, columns=x.shape[1])
    if k < 1:
        raise ValueError(f"k is {k}; it should be at least 1")
    w_hat, everything = normalize(w), np.arange(len(w))
    found = [first_k(k, *exact_order(query, w_hat, everything)) for query in normalize(x)]
    ids, scores = zip(*found, strict=True)
    return np.stack(ids), np.stack(scores)
