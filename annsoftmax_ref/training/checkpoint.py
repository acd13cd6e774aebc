"""Checkpoint files: whole or not there, and read without running any code that they might hold."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch

FORMAT = 1


def check_writable(path: Path) -> None:
    """Raises ValueError, in one sentence, if ``path`` cannot be written; called before the training starts."""
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise ValueError(
            f"checkpoint is {path}, which cannot be written ({error.strerror}); name a file in a folder that can"
        ) from error


def save(path: Path, state: dict) -> None:
    """Written under a temporary name and renamed: an interruption leaves the previous checkpoint."""
    temporary = _temporary(path)
    try:
        torch.save({"format": FORMAT, **state}, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
