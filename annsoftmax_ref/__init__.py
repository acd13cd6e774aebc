"""ANN Softmax: train a classifier with very many classes, scoring each batch against the nearest few.

After *ANN Softmax: Acceleration of Extreme Classification Training* (Zhao et al., PVLDB 15(1), 2021).
"""

import os

# Matrices of tens of megabytes come and go in each step. With huge pages their first use costs a five-hundredth of
# the page faults; torch reads this when it is imported, so it helps only where this package is imported first.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from annsoftmax_ref.factory import make_head
from annsoftmax_ref.head import ANNSoftmax, SoftmaxHead
from annsoftmax_ref.index import IVFBinaryIndex
from annsoftmax_ref.machine.memory import keep_freed_memory
from annsoftmax_ref.nearest import NearestClasses
from annsoftmax_ref.objectives import (
    ArcFace,
    CombinedMargin,
    CosFace,
    CrossEntropy,
    DSoftmax,
    DSoftmaxB,
    DSoftmaxK,
    InsightFaceArcFace,
    Objective,
    from_degrees,
    make_objective,
)
from annsoftmax_ref.optim import RowAdamW, RowSGD
from annsoftmax_ref.rivals import ForestClasses, LabelGraphClasses, LSHClasses
from annsoftmax_ref.selectors import AllClasses, RandomClasses, Selector

__version__ = "0.1.0"

__all__ = [
    "ANNSoftmax",
    "AllClasses",
    "ArcFace",
    "CombinedMargin",
    "CosFace",
    "CrossEntropy",
    "DSoftmax",
    "DSoftmaxB",
    "DSoftmaxK",
    "ForestClasses",
    "IVFBinaryIndex",
    "InsightFaceArcFace",
    "LSHClasses",
    "LabelGraphClasses",
    "NearestClasses",
    "Objective",
    "RandomClasses",
    "RowAdamW",
    "RowSGD",
    "Selector",
    "SoftmaxHead",
    "from_degrees",
    "keep_freed_memory",
    "make_head",
    "make_objective",
]
