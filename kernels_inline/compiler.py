"""From a text to a loaded library: which compiler, where built libraries are kept, and how a function in one is called.

A library is named after a hash of everything it depends on, and after one of its own bytes, which is compared before
it is loaded: what a full disk or a crash has cut off is built again, where loading it would be a bus error. It is
built in a folder of its own and moved into place when it is complete. So there is no lock that a killed build could
leave behind, and processes that build at the same time do not disturb each other: each finds a whole library.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

LEFTOVERS = 86400  # seconds after which the remains of a killed build are deleted
# What torch and subprocess raise where something does not compile.
FAILURES = (RuntimeError, ImportError, ValueError, IndexError, subprocess.SubprocessError)
_INCLUDE = re.compile(r'^#include "([^"]+)".*$', re.MULTILINE)

logger = logging.getLogger(__name__)


class BuildError(RuntimeError):
    """The kernels cannot be built here; the message is one sentence that says why. Plain torch still works.

    log: all that the compiler said, where it was asked.
    """

    def __init__(self, message: str, log: str = ""):
        super().__init__(message)
        self.log = log


# -------------------------------------------------------------------------------------------------------- the compiler


def cxx() -> list[str]:
    """The C++ compiler and its own arguments: $CXX, which may be a path or a command as in a shell, else c++.

    Raises BuildError where it is not there.
    """
    given = os.environ.get("CXX") or "c++"
    try:
        words = [given] if shutil.which(given) else shlex.split(given)
    except ValueError as error:
        raise BuildError(f"CXX is {given!r}, which is no command: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise BuildError(
            f"the C++ kernels need a C++ compiler and {given} is not on PATH: install one "
            "(apt-get install g++, or conda install -c conda-forge cxx-compiler) or set CXX"
        )
    return words


@contextlib.contextmanager
def ready_for_load_inline(workplace: str) -> Iterator[None]:
    """Inside the block torch's load_inline finds ninja, and a compiler that is one word.

    It wants ninja on PATH, and an environment that is not activated has it beside its python. It takes $CXX for the
    name of one program; a command of several words becomes a script in the folder ``workplace``.
    """
    before = {name: os.environ.get(name) for name in ("PATH", "CXX")}
    places = [before["PATH"] or "", str(Path(sys.executable).parent)]
    with contextlib.suppress(ImportError):
        import ninja

        places.append(ninja.BIN_DIR)
    command = cxx()
    if shlex.join(command) != command[0]:
        script = Path(workplace, "cxx")
        script.write_bytes(os.fsencode(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n'))
        script.chmod(0o700)
        command = [str(script)]
    os.environ.update(PATH=os.pathsep.join(places), CXX=command[0])
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def preload(names: tuple[str, ...]) -> str:
    """The value of LD_PRELOAD for these run-time libraries of the compiler. Raises BuildError if it lacks one."""
    command = cxx()
    found = [
        subprocess.run([*command, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in names
    ]
    missing = [name for name, path in zip(names, found, strict=True) if not os.path.isabs(path)]
    if missing:
        raise BuildError(f"{shlex.join(command)} has no {' and no '.join(missing)}; install the sanitizers of gcc")
    return " ".join(found)


def first_cause(message: str) -> str:
    """The compiler's first error, else the first line of what went wrong."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return next((line for line in lines if re.search(r"\berror: ", line)), lines[0] if lines else "no message")


# ---------------------------------------------------------------------------------------------------------- the text


def inlined(path: Path, seen: set[str]) -> str:
    """The text of a file, with those of the headers beside it that it includes in their places, each once.

    seen: the headers that need not come again.
    """
    if path.name in seen:
        return ""
    seen.add(path.name)
    return with_headers(path.read_text(encoding="utf-8").replace("#pragma once", ""), path.name, path.parent, seen)


def with_headers(text: str, name: str, folder: Path, seen: set[str], first: int = 1) -> str:
    """``text``, with the headers of ``folder`` that it includes in their places.

    The #line marks make messages name the right file and line: ``name``, whose lines are numbered from ``first``.
    """
    before, after = 0, []
    for match in _INCLUDE.finditer(text):
        after.append(text[before : match.start()] + inlined(folder / match.group(1), seen))
        after.append(f'\n#line {text.count(chr(10), 0, match.end()) + first + 1} "{name}"')
        before = match.end()
    return f'#line {first} "{name}"\n' + "".join(after) + text[before:]


# --------------------------------------------------------------------------------------------------------- the library


def build_folder() -> Path:
    """$ANNSOFTMAX_BUILD, else ``annsoftmax/build`` in the user's cache folder. Raises BuildError without a home."""
    if os.environ.get("ANNSOFTMAX_BUILD"):
        return Path(os.environ["ANNSOFTMAX_BUILD"])
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "annsoftmax" / "build"
    except RuntimeError as error:
        raise BuildError("this user has no home folder to keep the kernels in; set ANNSOFTMAX_BUILD") from error


def cached_library(kind: str, text: str, flags: str, compile: Callable[[str, str, str, str], Path]) -> ctypes.CDLL:
    """The library at ``cached_path``, loaded. Raises BuildError, whatever goes wrong."""
    path = cached_path(kind, text, flags, compile)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"the kernels in {path.parents[1]} cannot be written or loaded: {error}") from error


def cached_path(kind: str, text: str, flags: str, compile: Callable[[str, str, str, str], Path]) -> Path:
    """The library that ``compile(name, text, flags, workplace)`` makes of a text, made if it is not there yet.

    kind: the beginning of its name; the rest is a hash of the text, the flags and this machine.
    compile: leaves main.cpp or cuda.cu, and the library, in the folder ``workplace``, and returns the library's path.
    Raises BuildError, whatever goes wrong.
    """
    identity = "\0".join((text, flags, torch.__version__, sys.platform, _cpu_identity()))
    name = f"{kind}_{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    folder = build_folder() / name
    try:
        return _find(folder) or _build(name, text, flags, folder, compile)
    except BuildError:
        raise
    except (OSError, UnicodeError) as error:  # of UnicodeError: a path that the locale cannot write
        raise BuildError(f"the kernels in {folder.parent} cannot be written or loaded: {error}") from error
    except FAILURES as error:
        raise BuildError(f"the kernels cannot be compiled: {first_cause(str(error))}") from error


def compile_cpp(name: str, text: str, flags: str, workplace: str) -> Path:
    """The library of a C++ text without torch's headers, by torch's load_inline; for ``cached_library``."""
    # Where there is an nvcc and no GPU, its import warns of that; C++ needs neither.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.cpp_extension import load_inline  # takes half a second, which a later load is spared

    with ready_for_load_inline(workplace):
        # Fresh lists: load_inline changes those that it is given.
        path = load_inline(
            name,
            text,
            functions=None,
            extra_cflags=flags.split(),
            extra_ldflags=["-fopenmp"],
            build_directory=workplace,
            is_python_module=False,
            no_implicit_headers=True,
        )
    return Path(path)


def _find(folder: Path) -> Path | None:
    """The library in a folder; one whose bytes are not those it is named after is passed over."""
    return next((path for path in sorted(folder.glob("*.so")) if path.stem.endswith(f"-{_digest(path)}")), None)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _build(name: str, text: str, flags: str, folder: Path, compile: Callable[[str, str, str, str], Path]) -> Path:
    cxx()  # says what to do where there is none
    folder.parent.mkdir(parents=True, exist_ok=True)
    _delete_leftovers(folder.parent)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder.parent, ignore_cleanup_errors=True) as workplace:
        built = compile(name, text, flags, workplace)
        folder.mkdir(exist_ok=True)
        for kept in (Path(workplace, part) for part in ("main.cpp", "cuda.cu")):
            if kept.exists():  # for a debugger and for readers
                kept.replace(folder / kept.name)
        library = built.replace(folder / f"{name}-{_digest(built)}.so")
    logger.info("built %s in %.1f s", name, time.perf_counter() - start)
    return library


def _delete_leftovers(folder: Path) -> None:
    for path in folder.glob("unfinished-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVERS:
                shutil.rmtree(path, ignore_errors=True)


@functools.lru_cache(maxsize=1)
def _cpu_identity() -> str:
    """The features of this CPU: a library built for one CPU can crash on another."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(dict.fromkeys(line for line in lines if re.match("model name|flags|Features|CPU part", line)))
    return f"{platform.machine()} {platform.processor()}"


# --------------------------------------------------------------------------------------------------------------- calls


def c_value(value):
    """A tensor as a pointer to its first element, None as a null pointer, int and bool as int64_t, float as double."""
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if value is None:
        return ctypes.c_void_p(None)
    return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_int64(value)


@functools.cache
def function_of(library: ctypes.CDLL, name: str):
    """A function of a library that returns an int64_t. Raises BuildError if it has none of that name."""
    function = getattr(library, name, None)
    if function is None:
        raise BuildError(f"there is no kernel {name} for this device; dispatch.runs tells beforehand")
    function.restype = ctypes.c_int64
    return function
