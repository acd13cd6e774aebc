"""Of a checkpoint, what was trained: backbone and head, without what only training needs."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from annsoftmax_ref.training.sharded.manifest import check_file, read_manifest
from annsoftmax_ref.training.sharded.metadata import read_metadata
from annsoftmax_ref.training.sharded.shelf import Checkpoints
from annsoftmax_ref.training.sharded.state import OPTIMIZER, TrainingState
from annsoftmax_ref.training.sharded.tensors import read_tensors
from annsoftmax_ref.training.sharded.together import Together


def newest_checkpoint(folder: str | Path) -> tuple[Path, dict]:
    """Of a folder of checkpoints the newest -> its own folder, and its manifest. ValueError where there is none."""
    with Checkpoints(folder) as shelf:
        step = shelf.latest()
    if step is None:
        raise ValueError(
            f"checkpoints is {folder}, which has no whole checkpoint; name a folder that annsoftmax train "
            "--checkpoints has written to"
        )
    whole = Path(folder) / f"step_{step:08d}"
    return whole, read_manifest(whole)


def load_trained(folder: Path, content: dict, model: nn.Module, head: nn.Module) -> None:
    """Put backbone and head as a checkpoint has them into ``model`` and ``head``; it may be of any number of processes,
    and a head's index is there if it was one. folder, content: of ``newest_checkpoint``.

    Raises ValueError for a checkpoint that is broken, or of another model or head, with nothing changed.
    """
    together, same_ranks = Together(None), content["ranks"] == 1
    for name, expected in content["files"].items():
        check_file(folder, name, expected)
    metadata, state = read_metadata(folder, set(content["files"])), TrainingState(model, head, {})
    numbers = content | {"optimizers": {}, "scheduler": None}
    try:
        state.check(numbers, metadata, together, same_ranks)
    except ValueError as error:
        raise ValueError(f"checkpoints has {folder}, which is of another model: {error}") from error
    targets = {name: value for name, value in state.targets(metadata, together).items() if OPTIMIZER not in name}
    read_tensors(targets, folder, metadata)
    state.put(targets, numbers, content["step"], together, same_ranks)
