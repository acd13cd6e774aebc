"""How good a trained model is: ``evaluate`` gives its report, of the kind that its data ask for.

Classification: top-1 and top-5, and top-1 of the classes seen often, less often and seldom. Embedding learning, on
classes that training did not see: verification, identification and retrieval. Next items: ranks among all items.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from annsoftmax_ref.evaluation.buckets import accuracy_by_frequency
from annsoftmax_ref.evaluation.embeddings import CHUNK, embed, embed_all, evaluating
from annsoftmax_ref.evaluation.parts import PartOf
from annsoftmax_ref.evaluation.ranking import mrr_of_ranks, ndcg_of_ranks, own_ranks, recall_of_ranks
from annsoftmax_ref.evaluation.retrieval import mean_average_precision, recall_at_k
from annsoftmax_ref.evaluation.verification import (
    draw_pairs,
    identification,
    make_pairs,
    pair_scores,
    tar_at_far,
    ten_fold_accuracy,
)
from annsoftmax_ref.evaluation.words import agreement_with_people, perplexity, word_vectors

FARS = {"tar_at_far_1e-2": 1e-2, "tar_at_far_1e-3": 1e-3, "tar_at_far_1e-4": 1e-4}
PAIRS = 100_000  # of each kind, for TAR at FAR: ten false accepts at 1e-4
FOLD_PAIRS = 6_000  # as many as LFW has
UNEVEN = 5.0  # the third of the most frequent classes has that many times the samples of the third of the rarest
PRECISION_AT = (1, 3, 5)
TOP = 10  # of a list of items that somebody sees
HEADLINES = ("accuracy", "recall_at_1", "precision_at_1", "recall_at_10")  # of a report; the first that it has


def evaluate(model: nn.Module, head: nn.Module, data, seed: int = 0) -> dict[str, float | None]:
    """The report of a trained model on ``data.test``: fractions 0 to 1, None where one cannot be measured.

    Classification: "accuracy", "top5" and, if ``data.train`` has uneven classes, "head", "middle", "tail", the top-1
    accuracy by thirds of the classes, from the most to the least frequent in training.
    Unseen classes (``data.split`` is "embedding"): what ``embedding_report`` gives.
    Several classes a sample ("multilabel"): "precision_at_1", "..3", "..5".
    Words ("words"): as classification, with "top10", "perplexity" and, where there are ``data.pairs``,
    "rank_correlation" and "pairs_known" (``words.agreement_with_people``).
    Next items ("items"): what ``ranking_report`` gives.
    seed: of the pairs and distractors; leave it, and every head and training seed is measured on the same ones.
    """
    split = getattr(data, "split", "faces")
    if split == "embedding":
        return embedding_report(*embed_all(model, data.test), seed)
    if split == "multilabel":
        return precision_report(model, head, data.test)
    if split == "words":
        return words_report(model, head, data)
    if split == "items":
        return ranking_report(model, head, data)
    return classification_report(model, head, data)


def score(model: nn.Module, head: nn.Module, data) -> float:
    """The report's headline alone, which ``fit`` asks for after each epoch."""
    split = getattr(data, "split", "faces")
    if split == "embedding":
        return recall_at_1(model, data.test)
    if split == "multilabel":
        return precision_report(model, head, data.test)["precision_at_1"]
    if split == "items":
        return accuracy(model, head, data.test, min(TOP, data.num_classes))
    return accuracy(model, head, data.test)


def headline(report: dict[str, float | None]) -> str:
    """The name of the number of a report that stands for it."""
    return next(name for name in HEADLINES if name in report)


def classification_report(model: nn.Module, head: nn.Module, data) -> dict[str, float | None]:
    """One pass over the test set; see ``evaluate``."""
    return _ranking_report(*hits(model, head, data.test, min(5, data.num_classes)), data)


def words_report(model: nn.Module, head: nn.Module, data) -> dict[str, float | None]:
    """Two passes over the test set; see ``evaluate``."""
    found, labels = hits(model, head, data.test, min(10, data.num_classes))
    report = _ranking_report(found, labels, data)
    report |= {"top10": _share(found.any(dim=1)), "perplexity": perplexity(model, head, data.test)}
    if data.pairs is None or getattr(head, "shards", None) is not None:  # else each process has some of the vectors
        return report
    return report | agreement_with_people(word_vectors(model, head, data), data.class_names, data.pairs)


def _ranking_report(found: Tensor, labels: Tensor, data) -> dict[str, float | None]:
    """found [n, k] and labels [n] as ``hits`` gives them."""
    first = found[:, 0]
    report = {"accuracy": _share(first), "top5": _share(found[:, :5].any(dim=1))}
    counts = uneven_counts(data)
    if counts is not None:
        report |= {name: bucket.accuracy for name, bucket in accuracy_by_frequency(first, labels, counts).items()}
    return report


def uneven_counts(data) -> Tensor | None:
    """Training samples a class [num_classes] int64; None if they are about even or not known before they are read."""
    labels = getattr(data.train, "labels", None)
    if labels is None or data.num_classes < 3:
        return None
    counts = torch.bincount(labels, minlength=data.num_classes)
    third = data.num_classes // 3
    ranked = counts.sort().values.double()
    return counts if ranked[-third:].mean() >= UNEVEN * ranked[:third].mean() else None


def embedding_report(embeddings: Tensor, labels: Tensor, seed: int = 0) -> dict[str, float | None]:
    """embeddings [n, d] and labels [n] of unseen classes -> "recall_at_1", "recall_at_10", "map"; "tar_at_far_1e-2",
    "..1e-3", "..1e-4" over ``PAIRS`` pairs of each kind (or all there are); "fold_accuracy", of ten folds of
    ``FOLD_PAIRS`` pairs; "rank1" identification, with whole classes, half of all samples, as distractors.
    """
    recall = recall_at_k(embeddings, labels, ks=(1, 10), chunk=CHUNK)
    report = {"recall_at_1": recall[1], "recall_at_10": recall[10], "map": mean_average_precision(embeddings, labels)}
    pairs = draw_pairs(labels, PAIRS, PAIRS, seed)
    same = int(pairs.same.sum())
    both = min(same, len(pairs.same) - same)  # a data set of a single class, or without two of any
    tar = tar_at_far(_scores(embeddings, pairs), pairs.same, list(FARS.values())) if both else {}
    report |= {name: tar.get(far) for name, far in FARS.items()}
    folds = make_pairs(labels, min(FOLD_PAIRS, 2 * both), seed) if both >= 10 else None
    report["fold_accuracy"] = ten_fold_accuracy(_scores(embeddings, folds), folds.same).mean if folds else None
    try:
        report["rank1"] = identification(embeddings, labels, max(1, len(labels) // 2), seed).rank1
    except ValueError:  # the other half has no class of two samples
        report["rank1"] = None
    return report


def precision_report(model: nn.Module, head: nn.Module, dataset) -> dict[str, float | None]:
    """Precision at k as extreme classification measures it (Bhatia et al. 2016): the part (0 to 1) of a sample's k
    classes of largest cosine that are its own, mean over the samples; None for a k above the number of classes.

    ``dataset`` has ``batch_all(index) -> (inputs, label_offsets [b + 1], labels)``, as ``XMCFile``.
    """
    right = torch.zeros(max(PRECISION_AT), dtype=torch.int64)  # by rank
    with evaluating(model, head):
        for index in torch.arange(len(dataset)).split(CHUNK):
            part = PartOf(head, index)
            inputs, offsets, labels = dataset.batch_all(part.index)
            _, classes = head.topk(part.cut(embed(model, inputs)), min(len(right), head.num_classes))
            start = torch.arange(len(part.index)) * head.num_classes  # (sample, class) as one number
            own = start.repeat_interleave(offsets.diff()) + labels
            own_ones = torch.isin(part.cut(start).unsqueeze(1) + classes.cpu(), own)
            right[: classes.shape[1]] += part.of_all(own_ones).sum(dim=0)
    return {
        f"precision_at_{k}": int(right[:k].sum()) / (k * len(dataset)) if k <= head.num_classes else None
        for k in PRECISION_AT
    }


def ranking_report(model: nn.Module, head: nn.Module, data) -> dict[str, float | None]:
    """ "recall_at_10", "recall_at_20", "ndcg_at_10", "mrr" of the test samples' own classes among all; recall@10 by
    thirds of the classes, "head", "middle", "tail", as in ``classification_report``; and "best_recall_at_10", that of
    ``data.best_ranks``, where the data know how good a model can be at all."""
    ranks, labels = own_ranks(model, head, data.test)
    report = {
        "recall_at_10": recall_of_ranks(ranks, TOP),
        "recall_at_20": recall_of_ranks(ranks, 2 * TOP),
        "ndcg_at_10": ndcg_of_ranks(ranks, TOP),
        "mrr": mrr_of_ranks(ranks),
    }
    counts = uneven_counts(data)
    if counts is not None:
        buckets = accuracy_by_frequency(ranks <= TOP, labels, counts)
        report |= {name: bucket.accuracy for name, bucket in buckets.items()}
    best = getattr(data, "best_ranks", None)
    if best is not None:
        report["best_recall_at_10"] = recall_of_ranks(best, TOP)
    return report


def verify(model: nn.Module, pairs) -> dict[str, float | None]:
    """ "fold_accuracy" and "tar_at_far_1e-2", "..1e-3", "..1e-4" on the pairs of images of a ``VerificationPairs``.

    An image's embedding is the sum of its own and of its mirror image's, and the folds are those of the file's order,
    as in InsightFace's ``verification.py``.
    """
    scores = []
    for index in torch.arange(len(pairs)).split(CHUNK):
        first, second = (embed(model, side) + embed(model, side.flip(-1)) for side in pairs.batch(index)[:2])
        scores.append(torch.cosine_similarity(first, second).cpu())
    scores = torch.cat(scores)
    tar = tar_at_far(scores, pairs.same, list(FARS.values()))
    return {"fold_accuracy": ten_fold_accuracy(scores, pairs.same).mean} | {k: tar[far] for k, far in FARS.items()}


def _scores(embeddings: Tensor, pairs) -> Tensor:
    return pair_scores(embeddings, pairs.first, pairs.second)


def _share(correct: Tensor) -> float:
    return int(correct.sum()) / len(correct)


def hits(model: nn.Module, head: nn.Module, dataset, k: int = 1) -> tuple[Tensor, Tensor]:
    """Which of the ``k`` classes of largest cosine, over all classes, is each sample's own.

    ``dataset`` has ``len`` and ``batch(index) -> (inputs, labels)``. Whatever the head trained on, the test is exact.
    Returns hits [n, k] bool, at most one a row, in the order of the ranking (top-j is ``hits[:, :j].any(1)``), and
    labels [n] int64, both on the CPU. Where the classes are split over processes, all of them call this together, each
    embeds a part of the samples, and all return the same. Derived in notebook 10, section "Count the hits".
    """
    found, owners = [], []
    with evaluating(model, head):
        for index in torch.arange(len(dataset)).split(CHUNK):
            part = PartOf(head, index)
            inputs, labels = dataset.batch(part.index)
            labels = part.cut(labels.cpu())
            _, classes = head.topk(part.cut(embed(model, inputs)), k)
            found.append(part.of_all(classes.cpu() == labels.unsqueeze(1)))
            owners.append(part.of_all(labels))
    return torch.cat(found), torch.cat(owners)


def accuracy(model: nn.Module, head: nn.Module, dataset, k: int = 1) -> float:
    """The part (0 to 1) of the samples whose own class is among the ``k`` classes of largest cosine."""
    found, _ = hits(model, head, dataset, k)
    return _share(found.any(dim=1))


def recall_at_1(model: nn.Module, dataset) -> float:
    """Recall at 1 (0 to 1): how often the nearest other drawing, by cosine, is of the same class.

    For classes that training did not see (``load_glyphs(split="embedding")``); needs no head. Drawings that are
    alone in their class cannot be found and are asked for nothing, though they may be (wrongly) found.
    """
    return recall_at_k(*embed_all(model, dataset), ks=(1,), chunk=CHUNK)[1] or 0.0  # None: nothing to ask for
