"""The glossary's terms, and what stands for each in the package: a test keeps the names true."""

from __future__ import annotations

import pkgutil

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
    "captured mass": "beyond.mass_budget.captured_mass",
    "fill": "active_sets.draw_fill",
    "full softmax": "AllClasses",
    "gradient error": "diagnostics.diagnose",
    "group": "grouping.similar_groups",
    "hashing forest": "ForestClasses",
    "label graph": "LabelGraphClasses",
    "log-weight": "beyond.tail.tail_active",
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
    "nlist": "list_sizes.default_nlist",
    "nprobe": "list_sizes.default_nprobe",
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
    "distractor": "evaluation.verification.identification",
    "FAR": "evaluation.verification.roc",
    "identification": "evaluation.verification.identification",
    "mAP": "evaluation.retrieval.mean_average_precision",
    "recall@k": "evaluation.retrieval.recall_at_k",
    "ROC": "evaluation.verification.roc",
    "TAR": "evaluation.verification.tar_at_far",
    "ten-fold accuracy": "evaluation.verification.ten_fold_accuracy",
    "top-k": "head.SoftmaxHead.topk",
}


def load(name: str):
    """ "rows.cosines" -> the object. Raises AttributeError if there is none of that name."""
    return pkgutil.resolve_name(f"annsoftmax_ref.{name}")
