"""Recipes: the numbers that a training run is made with, and the optimizer and schedule that follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from annsoftmax_ref.datasets.augment import Augmentation
from annsoftmax_ref.objectives import OBJECTIVES, Objective, make_objective
from annsoftmax_ref.optim import RowAdamW, RowSGD


@dataclass(frozen=True)
class Recipe:
    """How to train on the glyphs. The learning rate rises to ``lr`` in the first ``warmup`` part of the steps and falls
    in a straight line to 0. Weight decay is for the backbone's weights only: of the head, only directions count.
    ``steps_per_epoch`` None is once through the data; a number draws that many batches instead. ``momentum_in_8_bits``:
    that of the head.
    """

    objective: str = "cosface"
    scale: float = 20.0
    margin: float | None = None
    epochs: int = 8
    batch_size: int = 256
    lr: float = 0.8
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: float = 0.15
    steps_per_epoch: int | None = None
    augmentation: Augmentation | None = Augmentation()
    momentum_in_8_bits: bool = False

    def make_objective(self) -> Objective:
        return make_objective(self.objective, self.scale, self.margin)


def default_recipe(objective: str = "cosface") -> Recipe:
    """The recipe the tables were made with, the same for every head.

    Learning rate, scale and margin (of the four objectives with a kernel) were chosen for the full softmax (seed 0), by
    its accuracy on the held-out faces: if that flatters a head, it is the full one. The others are not tuned: theirs
    are the margins of the objectives that they are variants of, and CombinedMargin's own. Raises ValueError for an
    objective that does not exist.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; it should be one of {', '.join(OBJECTIVES)}")
    return Recipe(objective=objective, margin=OBJECTIVES[objective].recipe_margin)


def build_optimizer(model: nn.Module, head: nn.Module, recipe: Recipe, kind: str = "sgd") -> RowSGD | RowAdamW:
    """A row optimizer over backbone and head; on dense gradients it equals torch's.

    kind: "sgd", with Nesterov momentum, or "adamw", with the recipe's learning rate and decay alone.
    """
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others},
        {"params": list(head.parameters())},
    ]
    if kind == "adamw":
        return RowAdamW([g for g in groups if g["params"]], lr=recipe.lr, weight_decay=0.0)
    groups[2]["momentum_dtype"] = torch.int8 if recipe.momentum_in_8_bits else None
    return RowSGD(
        [g for g in groups if g["params"]], lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0
    )


def rate_factor(step: int, recipe: Recipe, steps: int) -> float:
    """What the learning rate is multiplied by at ``step`` of ``steps``: up in a straight line for ``recipe.warmup`` of
    them, then down in one to 0."""
    rise = max(1, round(recipe.warmup * steps))
    return (step + 1) / rise if step < rise else max(0.0, (steps - step) / max(1, steps - rise))


def build_scheduler(optimizer, recipe: Recipe, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """The learning rate times ``rate_factor``, step by step."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, recipe, steps))
