"""The .cu files as text: what is in them, and all of them joined into one that needs no other file of ours."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kernels_inline import compiler

FOLDER = Path(__file__).parent
_LAUNCHER = re.compile(r'^extern "C" int64_t (\w+)\(([^)]*\bvoid\s*\*\s*stream)\)\s*\{', re.MULTILINE)
_KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\([^;{]*?\)\s+)?(\w+)\s*\(")
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def files() -> list[Path]:
    return sorted(FOLDER.glob("*.cu"))


def text_of(path: Path) -> str:
    """A .cu file without its line that includes launch.h, in whose place another header may come first, and with the
    other headers that it includes in their places."""
    return compiler.inlined(path, {"launch.h"})


def launchers(text: str) -> dict[str, list[str]]:
    """The functions that python calls, each with its parameters as they are written, the stream last."""
    found = {}
    for name, parameters in _LAUNCHER.findall(_COMMENT.sub("", text)):
        found[name] = [" ".join(parameter.split()) for parameter in parameters.split(",")]
    return found


def launcher_files() -> dict[str, Path]:
    """Every launcher of the folder, and the file it is in."""
    return {name: path for path in files() for name in launchers(path.read_text())}


def kernel_names(text: str) -> list[str]:
    """The names of the __global__ functions, in their order, each once."""
    return list(dict.fromkeys(_KERNEL.findall(_COMMENT.sub("", text))))


def joined(header: str, paths: Sequence[Path] = ()) -> str:
    """One text of a header of this folder and of .cu files (default: all of them).

    Each file is in a namespace named after it, since a launcher in an unnamed one would be invisible to python.
    The #line marks make messages name the right file and line.
    """
    parts = [compiler.inlined(FOLDER / header, set())]
    for path in paths or files():
        parts.append(f"namespace {path.stem}_cu {{\n{text_of(path)}\n}}")
    return "\n".join(parts) + "\n"
