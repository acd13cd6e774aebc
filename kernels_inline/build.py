"""The C++ library: every C++ file of this folder compiled into one, at first use.

The files include no torch header and export ``extern "C"`` functions on raw pointers, so that all of them compile
in seconds (one that includes torch/extension.h takes half a minute). Every exported function takes pointers,
``int64_t`` and ``double`` only, and returns an ``int64_t``: 0, or a code whose meaning its caller knows.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from kernels_inline import compiler
from kernels_inline.compiler import BuildError

__all__ = ["BuildError", "VARIANTS", "available", "load", "using", "why_not"]
SOURCES = Path(__file__).parent
NATIVE = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
# Instruction sets that the tests compare. The empty one is what every x86-64 CPU has.
VARIANTS = {"native": NATIVE, "avx2": "-mavx2 -mfma -mpopcnt", "baseline": ""}
COMMON_FLAGS = "-O3 -fopenmp -fno-math-errno"

_lock = threading.RLock()
_outcomes: dict[str, ctypes.CDLL | BuildError] = {}
_forced: list[str] = []  # flags chosen by ``using``, innermost last


def load(flags: str | None = None) -> ctypes.CDLL:
    """The library with all kernels, built if this machine does not have it yet.

    flags: the compiler's flags for the CPU, by default those of ``using``, else $ANNSOFTMAX_CPU_FLAGS, else those
    for this machine's own CPU. $ANNSOFTMAX_EXTRA_FLAGS come after them (tools/sanitize.py sets it).
    Raises BuildError, the second time without trying again.
    """
    flags = cpu_flags() if flags is None else flags
    outcome = _outcomes.get(flags)
    if outcome is None:
        with _lock:
            outcome = _outcomes[flags] = _outcomes.get(flags) or _find_or_build(flags)
    if isinstance(outcome, BuildError):
        raise outcome
    return outcome


def available() -> bool:
    """Whether the kernels can be used; builds them if need be."""
    return why_not() is None


def why_not() -> str | None:
    """One sentence on why the kernels cannot be used, or None if they can."""
    try:
        load()
    except BuildError as error:
        return str(error)
    return None


def cpu_flags() -> str:
    return _forced[-1] if _forced else os.environ.get("ANNSOFTMAX_CPU_FLAGS", NATIVE)


@contextlib.contextmanager
def using(flags: str) -> Iterator[None]:
    """Inside the block the kernels are those built with these flags, for example ``VARIANTS["avx2"]``."""
    _forced.append(flags)
    try:
        yield
    finally:
        _forced.pop()


class CppLibrary:
    """The C++ kernels, with the two calls that every library has (the others are in cuda/library.py)."""

    def __init__(self, library: ctypes.CDLL):
        self.library = library

    def has(self, name: str) -> bool:
        return hasattr(self.library, name)

    def call(self, name: str, *arguments: Tensor | int | float | None) -> int:
        return compiler.function_of(self.library, name)(*map(compiler.c_value, arguments))


_wrapped = functools.cache(CppLibrary)  # one for each library


def library() -> CppLibrary:
    """The kernels that ``load`` gives, as ``dispatch`` calls them. Raises BuildError."""
    return _wrapped(load())


def runnable_variants() -> dict[str, str]:
    """Those of VARIANTS that this CPU can run."""
    avx2 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return {name: flags for name, flags in VARIANTS.items() if avx2 or name != "avx2"}


def source() -> str:
    """All .cpp files as one text, with the headers that they include."""
    seen: set[str] = set()
    return "\n".join(compiler.inlined(path, seen) for path in sorted(SOURCES.glob("*.cpp")))


def _find_or_build(flags: str) -> ctypes.CDLL | BuildError:
    flags = f"{COMMON_FLAGS} {flags} {os.environ.get('ANNSOFTMAX_EXTRA_FLAGS', '')}"
    try:
        return compiler.cached_library("annsoftmax_cpu", source(), flags, _compile)
    except BuildError as error:
        return error


def _compile(name: str, text: str, flags: str, workplace: str) -> Path:
    compiler.logger.warning("building the C++ kernels in %s, once, for about 10 seconds", compiler.build_folder())
    return compiler.compile_cpp(name, text, flags, workplace)
