"""Exactly A classes from the map of a flat scan (NumPy): one byte for each class, the larger the better.

A flat scan compares every sample with the code of every class. The byte of class c is the best that any sample has to
say for it, max over samples of (score - threshold of the sample), cut off at 0 and 255. So the union over samples is
in the map already, and choosing is a cut through N bytes.
"""

import numpy as np

from .objectives import check_ids


def select_map(scores, labels, A):
    """The active set of a map, and where each label sits in it.

    scores [N] integers in 0..255; labels [b]. Returns active [A] ascending, target [b] with active[target] == labels.
    The A places go to every label (ValueError if there are more than A distinct ones), then to the classes with the
    largest bytes, ties to the lower id.
    """
    scores = np.asarray(scores)
    if (
        scores.ndim != 1
        or scores.dtype.kind not in "iu"
        or (len(scores) and not 0 <= scores.min() <= scores.max() < 256)
    ):
        raise ValueError(f"scores is {scores.dtype} of shape {scores.shape}; it should be [N] integers in 0..255")
    labels = check_ids("labels", labels, len(scores))
    if not 0 <= A <= len(scores):
        raise ValueError(f"A is {A}; it should lie in 0..{len(scores)}, the number of classes")
    distinct = len(np.unique(labels))
    if distinct > A:
        raise ValueError(f"labels hold {distinct} distinct classes; they should fit into A = {A}")
    key = 255 - scores.astype(np.int64)
    key[labels] = -1
    active = np.sort(np.argsort(key, kind="stable")[:A])
    return active, np.searchsorted(active, labels)
