"""``annsoftmax bench upkeep``: does the index that follows the weights stay as good as one made anew?

A head is trained on the glyphs; every so many steps the same queries are put to its index and to one that is built
from scratch, k-means and all, on the weights of that moment.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref import ANNSoftmax
from annsoftmax_ref.class_index import recall_of
from annsoftmax_ref.datasets import load_glyphs
from annsoftmax_ref.experiments.runs import EMBEDDING_SIZE
from annsoftmax_ref.index import IVFBinaryIndex
from annsoftmax_ref.training import default_recipe, fit
from annsoftmax_ref.training.network import ConvNet

QUERIES = 256


class WatchedHead(ANNSoftmax):
    """Asked how good its active sets are, it looks at its index, too, and calls ``on_look`` with what it finds."""

    def __init__(self, *sizes, on_look: Callable[[dict], None], **options):
        super().__init__(*sizes, **options)
        self.on_look, self.looks = on_look, 0

    def diagnose(self, embeddings: Tensor, labels: Tensor, k: int = 50) -> dict:
        found = super().diagnose(embeddings, labels, k)
        weight, queries = self.weight.detach(), F.normalize(embeddings[:QUERIES], dim=1)
        truth = (queries @ self.prototypes().T).topk(k, dim=1).indices
        rebuilt = IVFBinaryIndex(*weight.shape, self.selector.nlist)
        rebuilt.train_lists(weight, torch.Generator().manual_seed(self.looks))
        self.looks += 1
        recalls = []
        for index in (self.selector.index, rebuilt):
            ids, _ = index.search(queries, weight, self.selector.candidates_per_sample(32), self.selector.nprobe)
            recalls.append(recall_of(ids, truth))
        kept = {name: found[name] for name in ("captured_mass", "code_age", "stale_bits")}
        self.on_look({"recall": recalls[0], "recall_rebuilt": recalls[1], **kept})
        return found


def bench_upkeep(
    steps: int = 2000,
    every: int = 100,
    seed: int = 0,
    progress: bool = True,
    on_look: Callable[[dict], None] | None = None,
) -> list[dict]:
    """One row a look: {"step", "recall", "recall_rebuilt", "captured_mass", "code_age", "stale_bits"}.

    recall: of each query's 50 nearest classes, found among the candidates of one search with the selector's own
    nprobe; the queries are the embeddings of the last batch. on_look is called with each new row.
    """
    data = load_glyphs(progress=progress)
    recipe = default_recipe("cosface")
    model = ConvNet(EMBEDDING_SIZE, seed=seed)
    rows: list[dict] = []

    def keep(look: dict) -> None:
        step = (len(rows) + 1) * every
        if step <= steps:  # the last epoch is trained to its end
            rows.append({"step": step, **look})
            if on_look is not None:
                on_look(rows[-1])

    head = WatchedHead(data.num_classes, EMBEDDING_SIZE, recipe.make_objective(), seed=seed, on_look=keep)
    fit(
        model,
        head,
        data,
        recipe,
        epochs=-(-steps // (len(data.train) // recipe.batch_size)),
        seed=seed,
        progress=progress,
        diagnose_every=every,
        evaluate=lambda: float("nan"),
    )
    return rows
