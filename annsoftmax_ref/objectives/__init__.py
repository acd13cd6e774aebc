"""Objectives: from cosines of one active set to the loss of each sample.

An objective takes ``cosine [b, A]`` (samples by active classes) and ``target [b]`` (the column of each
sample's own class) and gives the loss of each sample ``[b]``. It does not know which classes were left
out: with all classes in, it is the full softmax. What is to be added to the logits from outside, such as a bias or
the log-weights of classes that stand for others, is ``offset``. Margins are in radians (``from_degrees``). The same
formulas in float64 NumPy, with hand-written gradients, are in ``annsoftmax_ref.reference.objectives`` and
``annsoftmax_ref.reference.variants``.
"""

from __future__ import annotations

from annsoftmax_ref.objectives.base import Objective
from annsoftmax_ref.objectives.dsoftmax import DSoftmax, DSoftmaxB, DSoftmaxK
from annsoftmax_ref.objectives.margins import (
    ArcFace,
    CombinedMargin,
    CosFace,
    InsightFaceArcFace,
    from_degrees,
)
from annsoftmax_ref.objectives.registry import OBJECTIVES, make_objective, register_objective
from annsoftmax_ref.objectives.softmax import CrossEntropy

__all__ = [
    "OBJECTIVES",
    "ArcFace",
    "CombinedMargin",
    "CosFace",
    "CrossEntropy",
    "DSoftmax",
    "DSoftmaxB",
    "DSoftmaxK",
    "InsightFaceArcFace",
    "Objective",
    "from_degrees",
    "make_objective",
    "register_objective",
]

# In the order of lists and messages.
for _kind in (CrossEntropy, CosFace, ArcFace, DSoftmax, InsightFaceArcFace, CombinedMargin, DSoftmaxB, DSoftmaxK):
    register_objective(_kind)
