"""Arrays that take seconds to make are made once and kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from annsoftmax_ref.machine.files import replacing

Arrays = dict[str, np.ndarray]


def cache_folder(cache_dir: str | os.PathLike | None = None) -> Path:
    """``cache_dir``, else $ANNSOFTMAX_CACHE, else $XDG_CACHE_HOME/annsoftmax, else ~/.cache/annsoftmax."""
    if cache_dir is not None:
        return Path(cache_dir)
    if os.environ.get("ANNSOFTMAX_CACHE"):
        return Path(os.environ["ANNSOFTMAX_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "annsoftmax"


def load_or_make(
    name: str, settings: dict, make: Callable[[], Arrays], cache_dir: str | os.PathLike | None = None
) -> Arrays:
    """The arrays of ``make()``, from the cache if they were made before with the same ``settings``.

    The file is ``<name>-<hash of settings>.npz``: other settings make another file. Raises OSError if the file
    has to be made and the folder cannot be written (before ``make`` is called), ValueError if the file is
    there but cannot be read.
    """
    text = json.dumps(settings, sort_keys=True)
    path = cache_folder(cache_dir) / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
    if path.exists():
        return read_arrays(path, text)
    check_writable(path.parent)
    arrays = make()
    write_arrays(path, arrays, text)
    return arrays


def check_writable(folder: Path) -> None:
    """Raises OSError, in one sentence, if no file can be made in ``folder``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"cache_dir is {folder}, which cannot be written ({error.strerror}); name a folder that can, "
            "with cache_dir or the environment variable ANNSOFTMAX_CACHE"
        ) from error


def read_arrays(path: Path, settings: str) -> Arrays:
    """The arrays in the file; ValueError if it is cut short, damaged (the zip's checksums) or not ours."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        intact = str(arrays.pop("settings")) == settings
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zipfile.zlib.error):
        intact = False
    if not intact:
        raise ValueError(
            f"the cache file {path} is broken or not of this program; delete it and run again, and it will be made anew"
        )
    return arrays


def write_arrays(path: Path, arrays: Arrays, settings: str) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, settings=np.array(settings), **arrays)
