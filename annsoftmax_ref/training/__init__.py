"""Training a backbone and a head: the loop and its step, the recipe, the networks, checkpoints.

``sharded`` has checkpoints of many processes; ``checkpoint`` is ``fit``'s, of one.
"""

from annsoftmax_ref.training.history import Epoch, History
from annsoftmax_ref.training.loop import fit
from annsoftmax_ref.training.recipe import Recipe, build_optimizer, build_scheduler, default_recipe
from annsoftmax_ref.training.step import train_step

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
