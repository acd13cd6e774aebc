"""The glossary's terms, and what stands for each in the package: a test keeps the names true."""

from __future__ import annotations

import functools
from importlib import import_module

# As the entries of notebooks/glossary.ipynb have them, in their order; under annsoftmax_ref.
NAMES = {
    "cosine": "rows.cosines",
    "embedding": "evaluation.embed",
    "head": "head.SoftmaxHead",
    "log-sum-exp": "reference.log_sum_exp",
    "logits": "head.SoftmaxHead.logits",
    "partition function": "reference.log_partition",
    "prototype": "head.SoftmaxHead.prototypes",
    "softmax": "reference.softmax_loss",
    "active set": "active_sets.ActiveSet",
    "captured mass": "mass_budget.captured_mass",
    "fill": "active_sets.draw_fill",
    "full softmax": "AllClasses",
    "gradient error": "diagnostics.diagnose",
    "group": "grouping.similarity_groups",
    "hashing forest": "ForestClasses",
    "label graph": "LabelGraphClasses",
    "log-weight": "estimators.tail_active",
    "LSH": "LSHClasses",
    "PartialFC": "RandomClasses",
    "positives": "active_sets.union_active",
    "rate": "active_sets.active_count",
    "selector": "Selector",
    "union": "reference.union_active",
    "ANN": "NearestClasses",
    "asymmetric score": "reference.asymmetric_scores",
    "binary code": "reference.encode",
    "centroid": "reference.kmeans_step",
    "Hamming distance": "reference.hamming",
    "inverted file": "lists.InvertedLists",
    "k-means": "reference.spherical_kmeans",
    "nlist": "nearest.default_nlist",
    "nprobe": "IVFBinaryIndex.search",
    "popcount": "reference.hamming",
    "quantization": "IVFBinaryIndex.encode",
    "re-ranking": "IVFBinaryIndex.search",
    "recall of a search": "diagnostics.diagnose",
    "refresh": "IVFBinaryIndex.refresh",
    "rotation": "reference.random_rotation",
    "staleness": "IVFBinaryIndex.stale_bits",
    "ArcFace": "ArcFace",
    "CosFace": "CosFace",
    "cross entropy": "CrossEntropy",
    "D-Softmax": "DSoftmax",
    "margin": "CombinedMargin",
    "objective": "Objective",
    "scale": "objectives.make_objective",
    "catch-up": "rows.catch_up",
    "momentum": "RowSGD",
    "row-sparse gradient": "rows.row_gradient",
    "distractor": "verification.identification",
    "FAR": "verification.roc",
    "identification": "verification.identification",
    "mAP": "retrieval.mean_average_precision",
    "recall@k": "retrieval.recall_at_k",
    "ROC": "verification.roc",
    "TAR": "verification.tar_at_far",
    "ten-fold accuracy": "verification.ten_fold_accuracy",
    "top-k": "head.SoftmaxHead.topk",
}


def load(name: str):
    """ "rows.cosines" -> the object. Raises AttributeError if there is none of that name."""
    parts = name.split(".")
    try:
        module, rest = import_module(f"annsoftmax_ref.{parts[0]}"), parts[1:]
    except ModuleNotFoundError:
        module, rest = import_module("annsoftmax_ref"), parts
    return functools.reduce(getattr, rest, module)
