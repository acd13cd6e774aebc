"""Checkpoint files: whole or not there, and read without running any code that they might hold."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

from annsoftmax_ref.machine.files import replacing

FORMAT = 1


def save(path: Path, state: dict) -> None:
    """Written under a temporary name and renamed: an interruption leaves the previous checkpoint."""
    with replacing(path) as temporary:
        torch.save({"format": FORMAT, **state}, temporary)


def load(path: Path) -> dict:
    """The saved state, tensors on the CPU. Raises ValueError for a file that is broken or not a checkpoint."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        known = isinstance(state, dict) and state.get("format") == FORMAT
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
        known = False
    if not known:
        raise ValueError(
            f"checkpoint is {path}, which is broken or not a checkpoint of fit(); delete it or name another file"
        )
    return state
