"""Far: the classes that an active set leaves out, a list of the index at a time.

A softmax over near classes alone holds a sample off its neighbours and leaves it to drift towards all others. A random
sample of those, weighted to stand for them, is right on average and noisy: a few far classes stand for thousands. But
the lists of the index have like rows together, and so each list's mean row m can stand for its classes. For n rows
that spread about m alike in all d directions, with variance (1 - |m|^2) / d in each, the mean of e^{s w.x} is that of
a Gaussian, so that their part of the partition function is

    n e^{s m.x + s^2 (1 - |m|^2) / 2 d}

one column more in the product, for a list, and nothing is drawn. Mean rows are kept by the index and get no gradient:
what is far pushes the sample, and is not pushed by it. Ours. NumPy twin: ``annsoftmax_ref.reference.far_offsets``.
Derived in notebook 06, section "The far classes, a list at a time".
"""

from __future__ import annotations

import torch
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.active_sets import FarClasses
from annsoftmax_ref.lists import counts_of
from kernels_inline.lists_ops import far_offsets


def far_classes(classes: Tensor, assignment: Tensor, sizes: Tensor, means: Tensor, scale: float) -> FarClasses:
    """What stands for the classes that are not in ``classes`` [G, A], for each of the G sets.

    assignment [N]: the list of each class; sizes [L]: classes in each list; means [L, d]: their mean rows, of rows of
    length 1; scale: what a cosine is multiplied by. A bias that a class left out may have is taken as 0.
    """
    if backend.runs(far_offsets, means):
        return FarClasses(means, far_offsets(classes, assignment, sizes, means, scale))
    sets, lists = len(classes), len(sizes)
    start = lists * torch.arange(sets, device=classes.device).unsqueeze(1)
    inside = counts_of((assignment[classes] + start).flatten(), sets * lists).view(sets, lists)
    spread = scale**2 / 2 * (1 - means.square().sum(dim=1)) / means.shape[1]  # [L]
    return FarClasses(means, (sizes - inside).to(means.dtype).log() + spread)
