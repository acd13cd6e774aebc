"""How good a trained model is, measured as the field does it.

``evaluate`` gives the report that the data ask for (``report``), out of embeddings without gradient (``embeddings``),
the pairs and galleries of face recognition (``verification``), the rankings of product search (``retrieval``) and of
recommenders (``ranking``), accuracy by how often a class was seen (``buckets``), and what words are worth as vectors
(``words``).
"""

from annsoftmax_ref.evaluation.embeddings import embed, embed_all, evaluating
from annsoftmax_ref.evaluation.ranking import mrr_of_ranks, ndcg_of_ranks, own_ranks, recall_of_ranks
from annsoftmax_ref.evaluation.report import (
    accuracy,
    classification_report,
    embedding_report,
    evaluate,
    headline,
    hits,
    precision_report,
    ranking_report,
    recall_at_1,
    score,
    uneven_counts,
    verify,
)
from annsoftmax_ref.evaluation.words import nearest_words, perplexity, rank_correlation, word_vectors

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
    "mrr_of_ranks",
    "ndcg_of_ranks",
    "nearest_words",
    "own_ranks",
    "perplexity",
    "precision_report",
    "rank_correlation",
    "ranking_report",
    "recall_at_1",
    "recall_of_ranks",
    "score",
    "uneven_counts",
    "verify",
    "word_vectors",
]
