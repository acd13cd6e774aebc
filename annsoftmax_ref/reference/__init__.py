"""The whole method in float64 NumPy: the specification that every other implementation is tested against.

One batch, stage by stage, in the order of the files:

>>> import numpy as np
>>> from annsoftmax_ref import reference as ref
>>> rng = np.random.default_rng(0)
>>> N, d, B = 300, 24, 16                              # classes, dimensions, batch
>>> w, x, labels = rng.standard_normal((N, d)), rng.standard_normal((B, d)), rng.integers(N, size=B)
>>> momentum = np.zeros_like(w)

index: lists and codes of the class weights

>>> centroids = ref.spherical_kmeans(w, nlist=8, iterations=5, rng=rng)
>>> assignment, codes = ref.assign(w, centroids), ref.encode(w)

groups, search, active sets: which classes each sample is scored against

>>> groups = ref.similar_groups(x, num_groups=4)
>>> nearest, _ = ref.search(x, w, centroids, assignment, codes, k=20, nprobe=4)
>>> A = ref.active_count(N, rate=0.1)
>>> actives = [ref.union_active(nearest[g], labels[g], rng.permutation(N), A, N)[0] for g in groups]

objective and gradients; then the row update (shown dense: `sgd_catch_up` makes it row by row)

>>> cosface = ref.make_objective("cosface", scale=16.0, margin=0.2)
>>> loss, dx, dw = ref.grouped_loss(x, w, labels, groups, actives, cosface)
>>> w_next, momentum = ref.sgd_step(w, momentum, dw, lr=0.1, momentum=0.9)
>>> bool(ref.grouped_loss(x, w_next, labels, groups, actives, cosface)[0] < loss)
True
"""

from .estimators import far_offsets, group_scores, log_partition, priority_sample, uniform_tail, with_log_weights
from .flat import flat_map, flat_thresholds, query_planes
from .flat_select import select_map
from .index import (
    assign,
    assign_by_shortlist,
    asymmetric_scores,
    brute_force,
    build_lists,
    encode,
    hamming,
    kmeans_init,
    kmeans_step,
    pack_bits,
    random_rotation,
    search,
    shortlists,
    spherical_kmeans,
)
from .objectives import (
    active_loss,
    arcface,
    cosface,
    cosine_logits,
    cross_entropy,
    dsoftmax,
    full_loss,
    log_sum_exp,
    normalize,
    normalize_backward,
    softmax_loss,
)
from .optim import adamw_catch_up, adamw_step, sgd_catch_up, sgd_missed_matrix, sgd_step
from .selection import (
    active_count,
    group_sizes,
    grouped_loss,
    main_direction,
    random_groups,
    similar_groups,
    union_active,
)
from .variants import (
    OBJECTIVES,
    arcface_insightface,
    combined,
    dsoftmax_b,
    dsoftmax_k,
    make_objective,
    smoothed_cross_entropy,
    weighted,
)

__all__ = [
    "OBJECTIVES",
    "active_count",
    "active_loss",
    "adamw_catch_up",
    "adamw_step",
    "arcface",
    "arcface_insightface",
    "assign",
    "assign_by_shortlist",
    "asymmetric_scores",
    "brute_force",
    "build_lists",
    "combined",
    "cosface",
    "cosine_logits",
    "cross_entropy",
    "dsoftmax",
    "dsoftmax_b",
    "dsoftmax_k",
    "encode",
    "far_offsets",
    "flat_map",
    "flat_thresholds",
    "full_loss",
    "group_scores",
    "group_sizes",
    "grouped_loss",
    "hamming",
    "kmeans_init",
    "kmeans_step",
    "log_partition",
    "log_sum_exp",
    "main_direction",
    "make_objective",
    "normalize",
    "normalize_backward",
    "pack_bits",
    "priority_sample",
    "query_planes",
    "random_groups",
    "random_rotation",
    "search",
    "select_map",
    "sgd_catch_up",
    "sgd_missed_matrix",
    "sgd_step",
    "shortlists",
    "similar_groups",
    "smoothed_cross_entropy",
    "softmax_loss",
    "spherical_kmeans",
    "uniform_tail",
    "union_active",
    "weighted",
    "with_log_weights",
]
