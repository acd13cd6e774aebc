"""How good a trained model is, measured as the field does it."""

from annsoftmax_ref.evaluation.embed import embed, embed_all, evaluating
from annsoftmax_ref.evaluation.report import (
    accuracy,
    classification_report,
    embedding_report,
    evaluate,
    headline,
    hits,
    precision_report,
    recall_at_1,
    score,
    uneven_counts,
    verify,
)

__all__ = [
    "accuracy",
    "classification_report",
    "embed",
    "embed_all",
    "embedding_report",
    "evaluate",
    "evaluating",
    "headline",
    "hits",
    "precision_report",
    "recall_at_1",
    "score",
    "uneven_counts",
    "verify",
]
