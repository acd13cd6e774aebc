"""Records: every number that is shown anywhere is read from a JSON file that a command wrote."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

from annsoftmax_ref import machine
from annsoftmax_ref.machine.files import replacing


def make_record(rows: list[dict], device="cpu", **more) -> dict:
    """rows with the machine, the date, the versions and the command that made them."""
    arguments = shlex.join(["annsoftmax", *sys.argv[1:]]) if _from_command_line() else None
    return {"rows": rows, **more, "environment": machine.describe(device), "command": arguments}


def write_record(record: dict, path: str | os.PathLike) -> None:
    """To ``path``, whole or not at all; ``-`` is standard output."""
    text = json.dumps(record, indent=1) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
    else:
        _write(text, path)


def write_rows(rows: list[dict], path: str | os.PathLike) -> None:
    """Rows alone, a line each, for files that grow: ``read_record(path)["rows"]`` gives them back."""
    lines = ",\n".join(json.dumps(row) for row in rows)
    _write(f'{{"rows": [\n{lines}\n]}}\n', path)


def _write(text: str, path: str | os.PathLike) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def read_record(path: str | os.PathLike) -> dict:
    return json.loads(Path(path).read_text())


def _from_command_line() -> bool:
    return Path(sys.argv[0]).name in ("annsoftmax", "__main__.py")
