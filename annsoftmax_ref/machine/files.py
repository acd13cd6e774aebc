"""Files that are whole or not there: written under another name, then renamed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A name to write to in ``path``'s place; the file takes that place when the block ends without an exception.

    The folder is made if need be. Readers see the old file or the new one, never half of one, and an interruption
    leaves the old one. The name ends as ``path`` does, since writers go by the ending, and holds this process's id,
    so that processes that write the same file do not write into each other's.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(target)
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(name: str, path: str | os.PathLike) -> None:
    """Raises ValueError, in one sentence about the argument ``name``, if ``path`` cannot be written.

    To be called before the work whose result is to be written there.
    """
    target = Path(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(target)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise ValueError(
            f"{name} is {path}, which cannot be written ({error.strerror}); name a file in a folder that can"
        ) from error


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
