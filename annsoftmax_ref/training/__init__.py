"""Training a backbone and a head: the loop and its step, the recipe, the networks, checkpoints.

``fit`` (``loop``) is for one process, a notebook's; ``Trainer`` (``trainer``) for one or many, with checkpoints after
any step. ``batches`` makes the batches of both, ``board`` logs for TensorBoard. ``sharded`` has checkpoints of many
processes; ``checkpoint`` is ``fit``'s, of one. ``integrations`` has the head in the trainers of others.
"""

from annsoftmax_ref.training.history import Epoch, History
from annsoftmax_ref.training.loop import fit
from annsoftmax_ref.training.recipe import Recipe, build_optimizer, build_scheduler, default_recipe
from annsoftmax_ref.training.step import train_step

__all__ = [
    "Epoch",
    "History",
    "Recipe",
    "Trainer",
    "build_optimizer",
    "build_scheduler",
    "default_recipe",
    "fit",
    "train_step",
]


def __getattr__(name: str):
    """``Trainer``, when it is asked for: torch's distributed checkpoints take longer to import than all else here."""
    if name == "Trainer":
        from annsoftmax_ref.training.trainer import Trainer

        return Trainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
