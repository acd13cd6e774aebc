"""What words are worth as vectors: how well the next one is told, which are near, and whether people agree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.evaluation.embeddings import CHUNK, embed, evaluating
from annsoftmax_ref.evaluation.parts import PartOf
from annsoftmax_ref.objectives import CrossEntropy


def word_vectors(model: nn.Module, head: nn.Module, data) -> Tensor:
    """What stands for each word of ``data.class_names`` [N, d]: the embedding of the word, where it is the whole input,
    as in skip-gram; else its row of the head. Of length 1, less their mean: what all share tells how frequent words
    are, not what they mean (Mu and Viswanath, "All-but-the-top", ICLR 2018)."""
    inputs, _ = data.train.batch(torch.zeros(1, dtype=torch.int64))
    alone = inputs.shape[1] == 1
    vectors = embed(model, torch.arange(data.num_classes)[:, None]) if alone else head.prototypes()
    vectors = F.normalize(vectors.float(), dim=1)
    return vectors - vectors.mean(dim=0)


def nearest_words(vectors: Tensor, names: Sequence[str], word: str, k: int = 10) -> list[tuple[str, float]]:
    """vectors [N, d] of the words ``names`` (``word_vectors``, ``data.class_names``) -> the k others of largest
    cosine with ``word``, and these. Raises ValueError for a word that has no vector."""
    names = list(names)
    if word not in names:
        raise ValueError(f"word is {word!r}, which is not among the {len(names)} words of the vocabulary")
    own = names.index(word)
    cosine = F.normalize(vectors, dim=1) @ F.normalize(vectors[own], dim=0)
    cosine[own] = -torch.inf
    best = cosine.topk(min(check_positive_int("k", k), len(names) - 1))
    return [(names[c], value) for value, c in zip(best.values.tolist(), best.indices.tolist(), strict=True)]


def ranks(values: np.ndarray) -> np.ndarray:
    """values [n] -> their ranks [n] from 1, equal ones at the mean of theirs."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[which]


def rank_correlation(first, second) -> float | None:
    """Spearman's rank correlation of first [n] and second [n]: Pearson's of their ranks; None where one is constant."""
    first, second = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"second has shape {list(second.shape)}; it should be that of first, {list(first.shape)}: [n]")
    a, b = (ranks(values) - (len(values) + 1) / 2 for values in (first, second))
    spread = math.sqrt((a @ a) * (b @ b))
    return float(a @ b) / spread if spread else None


def agreement_with_people(vectors: Tensor, names: Sequence[str], pairs) -> dict[str, float | None]:
    """ "rank_correlation" of the cosines of ``pairs`` (``datasets.WordPairs``) with their scores, over those of which
    both words have a vector, and "pairs_known", the share (0 to 1) of these."""
    number = {name: k for k, name in enumerate(names)}
    both = [k for k, two in enumerate(zip(pairs.first, pairs.second, strict=True)) if number.keys() >= set(two)]
    first, second = ([number[words[k]] for k in both] for words in (pairs.first, pairs.second))
    cosine = F.cosine_similarity(vectors[first], vectors[second]) if both else vectors.new_empty(0)
    known = len(both) / len(pairs.scores) if len(pairs.scores) else None
    return {"rank_correlation": rank_correlation(cosine.cpu().numpy(), pairs.scores[both]), "pairs_known": known}


def perplexity(model: nn.Module, head: nn.Module, dataset) -> float | None:
    """e to the mean cross entropy of the softmax over all classes, exactly, whatever the head trained on; None for an
    objective with a margin, whose loss is none. Where classes are split, all processes call this together."""
    if type(head.objective) is not CrossEntropy:
        return None
    total = 0.0
    with evaluating(model, head):
        for index in torch.arange(len(dataset)).split(CHUNK):
            part = PartOf(head, index)
            inputs, labels = dataset.batch(part.index)
            loss = head(part.cut(embed(model, inputs)), part.cut(labels.to(head.weight.device)))
            total += loss.item() * len(index)
    return math.exp(total / len(dataset))
