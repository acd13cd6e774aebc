"""Training a backbone and a head: the loop, the recipe, the networks, checkpoints."""

from annsoftmax_ref.training.loop import (
    Epoch,
    History,
    Recipe,
    build_optimizer,
    build_scheduler,
    default_recipe,
    fit,
    train_step,
)

__all__ = [
    "Epoch",
    "History",
    "Recipe",
    "build_optimizer",
    "build_scheduler",
    "default_recipe",
    "fit",
    "train_step",
]
