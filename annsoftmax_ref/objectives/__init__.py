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
]

OBJECTIVES: dict[str, type[Objective]] = {
    "cross_entropy": CrossEntropy,
    "cosface": CosFace,
    "arcface": ArcFace,
    "dsoftmax": DSoftmax,
    "arcface_insightface": InsightFaceArcFace,
    "combined": CombinedMargin,
    "dsoftmax_b": DSoftmaxB,
    "dsoftmax_k": DSoftmaxK,
}


def make_objective(
    name: str, scale: float | None = None, margin: float | tuple[float, float, float] | None = None, **options
) -> Objective:
    """The objective of that name (a key of ``OBJECTIVES``); ``None`` takes its default scale or margin.

    margin: one number; for ``combined`` the three (m1, m2, m3). options: what else that class takes, such as
    ``label_smoothing`` or ``share``. ValueError or TypeError for what it does not take.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"objective is {name!r}; it should be one of {', '.join(OBJECTIVES)}")
    if name == "cross_entropy":
        if margin:
            raise ValueError(f"margin is {margin}; cross_entropy has none: leave it out")
        return CrossEntropy(scale, **options)
    if name == "combined":
        if margin is None:
            return CombinedMargin(scale, **options)
        if not isinstance(margin, (tuple, list)) or len(margin) != 3:
            raise ValueError(f"margin is {margin!r}; combined takes three: (m1, m2, m3)")
        return CombinedMargin(scale, *margin, **options)
    return OBJECTIVES[name](scale, margin, **options)
