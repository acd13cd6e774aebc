"""The manifest of a checkpoint: of which run and step it is, and of each of its files the size and the SHA-256.

It is JSON, and holds a SHA-256 of its own content. Nothing of a checkpoint is read before all of that has been seen to
be right. Format 1:

    format, torch           1, and the version of torch that wrote the tensors
    classes, embedding_size, settings   of the run; another run's are refused
    ranks                   P, of the processes that wrote it
    step, position          of the run, and where it is in its data, as its caller put it
    optimizers, scheduler   their numbers; what of them is tensors is in the files
    files                   name: [bytes, SHA-256]
    digest                  SHA-256 of all this
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

FORMAT = 1
NAME = "manifest.json"


def check_plain(name: str, value) -> None:
    """ValueError if JSON would not give the value back, but for tuples, which become lists."""
    try:
        json.dumps(_with_texts_as_keys(value))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} should be of numbers, texts, lists and dicts with texts as keys, as JSON can hold them ({error})"
        ) from error


def write_manifest(folder: Path, content: dict) -> None:
    """Into the folder, and onto the disk."""
    content = {"format": FORMAT, **content}
    with open(folder / NAME, "w") as file:
        json.dump(content | {"digest": _digest(content)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> dict:
    """ValueError if it is missing, broken, or of a later format."""
    try:
        content = json.loads((folder / NAME).read_text())
        version = content["format"]
        digest = content.pop("digest")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(folder, f"whose {NAME} is missing or broken") from error
    if isinstance(version, int) and version > FORMAT:
        raise ValueError(
            f"folder is {folder}, of format {version}, and this version reads formats up to {FORMAT}; update annsoftmax"
        )
    if digest != _digest(content):
        raise _broken(folder, f"whose {NAME} has been changed since it was written")
    return content


def check_run(folder: Path, content: dict, run: dict) -> None:
    """ValueError if the checkpoint is not of that run: its ``classes``, ``embedding_size`` and ``settings``."""
    run = json.loads(json.dumps(run))
    saved = {**content["settings"], **{name: content[name] for name in run if name != "settings"}}
    wanted = {**run["settings"], **{name: run[name] for name in run if name != "settings"}}
    for name in (*wanted, *saved):
        if name not in saved or name not in wanted or saved[name] != wanted[name]:
            raise ValueError(
                f"folder is {folder}, which is of another run: its {name} is {saved.get(name, 'not there')!r} and "
                f"should be {wanted.get(name, 'not there')!r}; train as before or name another folder"
            )


def fingerprint(path: Path) -> list:
    """[bytes, SHA-256] of a file."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return [file.tell(), digest]


def check_file(folder: Path, name: str, expected: list) -> None:
    """ValueError if the file is not what it was when it was written."""
    path = folder / name
    try:
        size = path.stat().st_size
        if size != expected[0]:
            raise _broken(folder, f"whose {name} has {size} bytes and should have {expected[0]}")
        if fingerprint(path) != expected:
            raise _broken(folder, f"whose {name} has been changed since it was written (its SHA-256 is another)")
    except OSError as error:
        raise _broken(folder, f"whose {name} cannot be read ({error.strerror})") from error


def _broken(folder: Path, what: str) -> ValueError:
    return ValueError(f"folder is {folder}, {what}; do not use it, take another step")


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _with_texts_as_keys(value):
    if isinstance(value, (list, tuple)):
        return [_with_texts_as_keys(part) for part in value]
    if not isinstance(value, dict):
        return value
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"key {key!r} is no text")
    return {key: _with_texts_as_keys(part) for key, part in value.items()}
