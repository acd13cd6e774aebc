"""``annsoftmax bench upkeep``: does the index that follows the weights stay as good as one made anew?

A head is trained on the glyphs; every so many steps the same queries are put to its index and to one that is built
from scratch, k-means and all, on the weights of that moment.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref.datasets import load_glyphs
from annsoftmax_ref.experiments.runs import EMBEDDING_SIZE
from annsoftmax_ref.factory import make_head
from annsoftmax_ref.index import IVFBinaryIndex
from annsoftmax_ref.training import default_recipe, fit
from annsoftmax_ref.training.network import ConvNet

QUERIES = 256


def bench_upkeep(steps: int = 2000, every: int = 100, k: int = 50, seed: int = 0, progress: bool = True) -> list[dict]:
    """One row a look: {"step", "recall", "recall_rebuilt", "captured_mass", "code_age", "stale_bits"}.

    recall: of each query's k nearest classes, found among the candidates of one search with the selector's own
    nprobe; the queries are the embeddings of the last batch.
    """
    data = load_glyphs(progress=progress)
    recipe = default_recipe("cosface")
    model = ConvNet(EMBEDDING_SIZE, seed=seed)
    head = make_head("ann", data.num_classes, EMBEDDING_SIZE, recipe.make_objective(), seed=seed)
    rows: list[dict] = []
    diagnose = head.diagnose

    def look(embeddings: Tensor, labels: Tensor) -> dict:
        found = diagnose(embeddings, labels)
        selector, weight = head.selector, head.weight.detach()
        queries = F.normalize(embeddings[:QUERIES], dim=1)
        truth = (queries @ head.prototypes().T).topk(k, dim=1).indices
        rebuilt = IVFBinaryIndex(*weight.shape, selector.nlist)
        rebuilt.train_lists(weight, torch.Generator().manual_seed(len(rows)))
        recalls = []
        for index in (selector.index, rebuilt):
            ids, _ = index.search(queries, weight, selector.candidates_per_sample(32), selector.nprobe)
            recalls.append(
                torch.stack([torch.isin(t, i).double().mean() for t, i in zip(truth, ids, strict=True)]).mean().item()
            )
        rows.append(
            {
                "step": (len(rows) + 1) * every,
                "recall": recalls[0],
                "recall_rebuilt": recalls[1],
                "captured_mass": found["captured_mass"],
                "code_age": found["code_age"],
                "stale_bits": found["stale_bits"],
            }
        )
        return found

    head.diagnose = look
    steps_per_epoch = len(data.train) // recipe.batch_size
    fit(
        model,
        head,
        data,
        recipe,
        epochs=-(-steps // steps_per_epoch),
        seed=seed,
        progress=progress,
        diagnose_every=every,
        evaluate=lambda: float("nan"),
    )
    return [row for row in rows if row["step"] <= steps]
