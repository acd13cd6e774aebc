"""Rows and queries to search: those of a head really trained on the glyphs, or clustered ones of any number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref.datasets import load_glyphs
from annsoftmax_ref.evaluation import embed
from annsoftmax_ref.experiments.runs import EMBEDDING_SIZE
from annsoftmax_ref.factory import make_head
from annsoftmax_ref.training import default_recipe, fit
from annsoftmax_ref.training.network import ConvNet


@dataclass
class Vectors:
    """rows [N, d] and queries [B, d], both of length 1; scale: of the softmax whose mass is measured."""

    rows: Tensor
    queries: Tensor
    scale: float
    kind: str


def trained_vectors(batch: int, seed: int = 0, epochs: int | None = None, progress: bool = True) -> Vectors:
    """Prototypes of a full-softmax CosFace head trained on the glyphs, and embeddings of held-out drawings."""
    data = load_glyphs(progress=progress)
    recipe = default_recipe("cosface")
    model = ConvNet(EMBEDDING_SIZE, seed=seed)
    head = make_head("full", data.num_classes, EMBEDDING_SIZE, recipe.make_objective(), seed=seed)
    history = fit(model, head, data, recipe, epochs=epochs, seed=seed, progress=progress)
    picks = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(seed))[:batch]
    queries = F.normalize(embed(model, data.test.images[picks]), dim=1)
    return Vectors(
        head.prototypes(),
        queries,
        recipe.scale,
        f"full softmax trained on the glyphs to {history.accuracy:.1%}, queries held-out drawings",
    )


def clustered_vectors(
    classes: int, dim: int, batch: int, seed: int = 0, members: int = 50, spread: float = 0.8
) -> Vectors:
    """Rows around N / members centres, themselves around N / members^2 others; queries near rows.

    A trained head's rows are neither uniform (an inverted file is useless there) nor apart in tight clusters
    (where anything works): two levels of overlapping clusters lie between. ``spread`` is each level's noise
    length, the centres having length 1.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(n: int) -> Tensor:
        return torch.randn(n, dim, generator=generator) * (spread / dim**0.5)

    top = max(1, classes // members**2)
    middle = max(1, classes // members)
    centres = F.normalize(torch.randn(top, dim, generator=generator), dim=1)
    centres = F.normalize(centres[torch.randint(top, (middle,), generator=generator)] + noise(middle), dim=1)
    rows = centres[torch.randint(middle, (classes,), generator=generator)]
    rows = F.normalize(rows.add_(noise(classes)), dim=1)
    queries = F.normalize(rows[torch.randint(classes, (batch,), generator=generator)] + noise(batch), dim=1)
    return Vectors(rows, queries, 20.0, f"two levels of clusters of {members}, noise {spread:g}")
