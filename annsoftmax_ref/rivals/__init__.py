"""Rivals: the other ways of choosing active classes that ANN Softmax is measured against, as selectors.

``LSHClasses`` (hash tables of the class weights), ``ForestClasses`` (Selective Softmax) and ``LabelGraphClasses``
(KNN Softmax) choose one active set for the whole batch, from a structure that is made anew every so many steps and
grows stale in between. ``LogQClasses`` draws classes by their frequency and corrects for it.
``RandomClasses`` (PartialFC) and ``AllClasses`` (full softmax) are in ``annsoftmax_ref.selectors``.
NumPy twins: ``annsoftmax_ref.reference.rivals``.
"""

from annsoftmax_ref.rivals.forest import ForestClasses
from annsoftmax_ref.rivals.label_graph import LabelGraphClasses
from annsoftmax_ref.rivals.log_q import LogQClasses
from annsoftmax_ref.rivals.lsh import LSHClasses

__all__ = ["ForestClasses", "LSHClasses", "LabelGraphClasses", "LogQClasses"]
