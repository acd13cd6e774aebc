"""Next items as recommenders are judged by: where is the one that came next in the ranking of all items?

Exact, over all classes: metrics of a sample of items may order models otherwise (Krichene & Rendle, "On Sampled Metrics
for Item Recommendation", KDD 2020). Items that the user took up before stay in the ranking, as they may come again.
A rank counts from 1; of equal scores the lower class comes first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.evaluation.embeddings import CHUNK, embed, evaluating
from annsoftmax_ref.evaluation.parts import PartOf
from annsoftmax_ref.every_row import is_long, scores_by_part
from annsoftmax_ref.row_parameter import unwatching
from annsoftmax_ref.rows import unit_rows


def recall_of_ranks(ranks: Tensor, k: int) -> float:
    """ranks [n >= 1] -> recall@k (0 to 1): the part of the samples whose own item is among the first k."""
    return int((_checked(ranks) <= check_positive_int("k", k)).sum()) / len(ranks)


def ndcg_of_ranks(ranks: Tensor, k: int) -> float:
    """ranks [n >= 1] -> NDCG@k (0 to 1): the mean of 1 / log2(1 + rank) where the rank is at most k, of 0 elsewhere.

    The ideal ranking has the one item that is relevant first, which gives 1 (Järvelin & Kekäläinen 2002).
    """
    gains = 1 / torch.log2(1 + _checked(ranks).double())
    return float(torch.where(ranks <= check_positive_int("k", k), gains, 0).mean())


def mrr_of_ranks(ranks: Tensor) -> float:
    """ranks [n >= 1] -> MRR (0 to 1): the mean of 1 / rank, over all ranks."""
    return float((1 / _checked(ranks).double()).mean())


def own_ranks(model: nn.Module, head: nn.Module, dataset) -> tuple[Tensor, Tensor]:
    """The rank of each sample's own class among all, and the class: [n] int64 each, on the CPU.

    Where the classes are split over processes, all of them call this together and return the same.
    """
    ranks, owners = [], []
    with evaluating(model, head):
        for index in torch.arange(len(dataset)).split(CHUNK):
            part = PartOf(head, index)
            inputs, labels = dataset.batch(part.index)
            embeddings = part.of_all(part.cut(embed(model, inputs)))
            owners.append(part.of_all(part.cut(labels.cpu())))
            ranks.append(ranks_among_all(head, embeddings, owners[-1].to(embeddings.device)).cpu())
    return torch.cat(ranks), torch.cat(owners)


@torch.no_grad()
@unwatching
def ranks_among_all(head: nn.Module, embeddings: Tensor, labels: Tensor) -> Tensor:
    """embeddings [n, d], labels [n] -> [n] int64, by cosine (with a bias, by logit), a part of the classes at a time.

    Where classes are split, each process has all n samples, and counts its own classes.
    """
    shards = getattr(head, "shards", None)
    first = 0 if shards is None else shards.first

    def scores():
        return scores_by_part(unit_rows(embeddings), head.weight, head._shifts()) if len(head.weight) else ()

    # A score is looked up in the product that it is compared in: another one may round otherwise.
    found = scores() if is_long(head.weight) else list(scores())
    own, ahead = None, torch.zeros_like(labels)
    for part, some in found:
        place = labels - first - part.start
        there = ((place >= 0) & (place < some.shape[1])).unsqueeze(1)
        looked_up = some.gather(1, place.clamp(0, some.shape[1] - 1).unsqueeze(1)).where(there, 0)
        own = looked_up if own is None else own + looked_up
    if own is None:
        own = embeddings.new_zeros(len(labels), 1)
    if shards is not None:
        own = shards.total(own, "ranks")
    for part, some in scores() if is_long(head.weight) else found:
        lower = torch.arange(part.start, part.stop, device=labels.device) + first < labels.unsqueeze(1)
        ahead += ((some > own) | ((some == own) & lower)).sum(dim=1)
    return 1 + (ahead if shards is None else shards.total(ahead, "ranks"))


def _checked(ranks: Tensor) -> Tensor:
    if not isinstance(ranks, Tensor) or ranks.dtype != torch.int64:
        kind = ranks.dtype if isinstance(ranks, Tensor) else type(ranks).__name__
        raise TypeError(f"ranks is of type {kind}; it should be a tensor [n] of int64")
    if ranks.dim() != 1 or not len(ranks) or int(ranks.min()) < 1:
        raise ValueError(f"ranks has shape {list(ranks.shape)}; it should be [n >= 1], ranks that count from 1")
    return ranks
