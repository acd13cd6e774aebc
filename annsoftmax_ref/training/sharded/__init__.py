"""Checkpoints of a training run, also of one that is split over processes, which open on any number of them.

``shelf`` is the folder of them, ``state`` what they hold under which names, ``optimizers`` the part of it that is of
optimizers, ``manifest`` what is known of each file before it is read, ``tensors`` and ``metadata`` the files, by
torch.distributed.checkpoint, ``together`` what processes tell each other; ``trained`` opens one without its optimizer.
"""

from annsoftmax_ref.training.sharded.shelf import Checkpoints
from annsoftmax_ref.training.sharded.state import TrainingState
from annsoftmax_ref.training.sharded.trained import load_trained, newest_checkpoint

__all__ = ["Checkpoints", "TrainingState", "load_trained", "newest_checkpoint"]
