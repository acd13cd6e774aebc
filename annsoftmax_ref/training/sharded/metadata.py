"""The plan of a checkpoint of torch.distributed.checkpoint, read without running any code that it might hold.

Its file ``.metadata`` is a pickle, and a pickle may call whatever it names. This one may name what such plans are made
of, and nothing else.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

NAME = ".metadata"


def _known() -> dict[tuple[str, str], object]:
    classes = (
        *(getattr(metadata, name) for name in metadata.__all__ if isinstance(getattr(metadata, name), type)),
        metadata._MEM_FORMAT_ENCODING,
        filesystem._StorageInfo,
    )
    known = {(kind.__module__, kind.__name__): kind for kind in classes}
    known |= {
        ("torch", str(kind).split(".")[1]): kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)
    }
    return known | {("torch", "Size"): torch.Size, ("torch.serialization", "_get_layout"): _strided}


def _strided(name: str) -> torch.layout:
    if name != "torch.strided":
        raise pickle.UnpicklingError(f"layout {name!r}")
    return torch.strided


class _Reader(pickle.Unpickler):
    KNOWN = _known()

    def find_class(self, module: str, name: str):
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return self.KNOWN[module, name]


def read_metadata(folder: Path, files: set[str]) -> Metadata:
    """The plan of the checkpoint in the folder. ValueError if it is none, or of more than tensors in these files."""
    try:
        with open(folder / NAME, "rb") as file:
            plan = _Reader(file).load()
        _check(plan, files)
    except Exception as error:  # what a broken pickle raises may be anything
        raise ValueError(
            f"folder is {folder}, whose {NAME} is broken or not that of a checkpoint of ours ({error}); do not use it, "
            "take another step"
        ) from error
    return plan


def _check(plan: Metadata, files: set[str]) -> None:
    if not isinstance(plan, Metadata):
        raise ValueError(f"it is a {type(plan).__name__}")
    for name, part in plan.state_dict_metadata.items():
        if not isinstance(name, str) or not isinstance(part, TensorStorageMetadata):
            raise ValueError(f"{name!r} is no tensor")
    for index, place in plan.storage_data.items():
        if place.relative_path not in files:
            raise ValueError(f"{index.fqn!r} is in {place.relative_path!r}")
