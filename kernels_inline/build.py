"""Compiles the C++ files of this folder into one library at first use, and calls the functions in it.

The files include no torch header and export ``extern "C"`` functions on raw pointers, so that all of them compile
in seconds (one that includes torch/extension.h takes half a minute). Every exported function takes pointers,
``int64_t`` and ``double`` only, and returns an ``int64_t``: 0, or a code whose meaning its caller knows.

A library is named after a hash of everything it depends on, and is built in a folder of its own that is moved into
place when it is complete. So there is no lock that a killed build could leave behind, and processes that build at
the same time do not disturb each other: the last one wins, with the same contents.
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
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from kernels_inline import choice

SOURCES = Path(__file__).parent
NATIVE = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
# Instruction sets that the tests compare. The empty one is what every x86-64 CPU has.
VARIANTS = {"native": NATIVE, "avx2": "-mavx2 -mfma -mpopcnt", "baseline": ""}
COMMON_FLAGS = "-O3 -fopenmp -fno-math-errno"
LEFTOVERS = 86400  # seconds after which the remains of a killed build are deleted

logger = logging.getLogger(__name__)
_lock = threading.RLock()
_outcomes: dict[str, ctypes.CDLL | BuildError] = {}
_forced: list[str] = []  # flags chosen by ``using``, innermost last


class BuildError(RuntimeError):
    """The kernels cannot be built here; the message is one sentence that says why. Plain torch still works."""


def load(flags: str | None = None) -> ctypes.CDLL:
    """The library with all kernels, built if this machine does not have it yet.

    flags: the compiler's flags for the CPU, by default those of ``using``, else $ANNSOFTMAX_CPU_FLAGS, else those
    for this machine's own CPU. $ANNSOFTMAX_EXTRA_FLAGS come after them (sanitize.py sets it).
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


def call(name: str, *arguments: Tensor | int | float | None) -> int:
    """Call the function ``name`` of the library for the tensors' device and return its code.

    Tensors are passed as pointers to their first element (None: a null pointer), so they must be contiguous; that,
    and their sizes, are for the caller to check. int and bool become int64_t, float double. Tensors on a GPU go to
    the CUDA library, on the present stream; those on the CPU to the C++ library, or under the backend "emulator" to
    the CUDA kernels run on the CPU. Raises ValueError for tensors on several devices, BuildError, and RuntimeError
    for an error of CUDA's.
    """
    places = {argument.device for argument in arguments if isinstance(argument, Tensor)} or {torch.device("cpu")}
    if len(places) > 1:
        raise ValueError(f"the tensors for {name} are on {', '.join(sorted(map(str, places)))}; one device is needed")
    return library_for(places.pop()).call(name, *arguments)


class CppLibrary:
    """The C++ kernels, with the two calls that every library has (the others are in cuda/library.py)."""

    def __init__(self, library: ctypes.CDLL):
        self.library = library

    def has(self, name: str) -> bool:
        return hasattr(self.library, name)

    def call(self, name: str, *arguments: Tensor | int | float | None) -> int:
        return function_of(self.library, name)(*map(c_value, arguments))


def library_for(place: torch.device):
    """What runs the kernels for tensors there: an object with ``has(name)`` and ``call(name, *arguments)``.

    Raises BuildError where there is none.
    """
    if place.type == "cpu" and choice.current() != "emulator":
        return CppLibrary(load())
    from kernels_inline.cuda import library

    return library.load(place)


def runnable_variants() -> dict[str, str]:
    """Those of VARIANTS that this CPU can run."""
    avx2 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    return {name: flags for name, flags in VARIANTS.items() if avx2 or name != "avx2"}


def build_folder() -> Path:
    """$ANNSOFTMAX_BUILD, else ``annsoftmax/build`` in the user's cache folder."""
    if os.environ.get("ANNSOFTMAX_BUILD"):
        return Path(os.environ["ANNSOFTMAX_BUILD"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "annsoftmax" / "build"


def source() -> str:
    """All .cpp files as one text; the #line directives make compiler messages name the right file and line."""
    return "\n".join(f'#line 1 "{path.name}"\n{path.read_text()}' for path in sorted(SOURCES.glob("*.cpp")))


def c_value(value):
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if value is None:
        return ctypes.c_void_p(None)
    return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_int64(value)


@functools.cache
def function_of(library: ctypes.CDLL, name: str):
    function = getattr(library, name, None)
    if function is None:
        raise BuildError(f"there is no kernel {name} for this device; dispatch.runs tells beforehand")
    function.restype = ctypes.c_int64
    return function


@functools.lru_cache(maxsize=1)
def _cpu_identity() -> str:
    """The features of this CPU: a library built for one CPU can crash on another."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(dict.fromkeys(line for line in lines if re.match("model name|flags|Features|CPU part", line)))
    return f"{platform.machine()} {platform.processor()}"


def cached_library(kind: str, text: str, flags: str, compile: Callable[[str, str, str, str], Path]) -> Path:
    """The library that ``compile(name, text, flags, workplace)`` makes of a text, made if it is not there yet.

    kind: the beginning of its name; the rest is a hash of the text, the flags and this machine.
    compile: leaves main.cpp or cuda.cu, and the library, in the folder ``workplace``, and returns the library's path.
    Raises BuildError or OSError.
    """
    identity = "\0".join((text, flags, torch.__version__, sys.platform, _cpu_identity()))
    name = f"{kind}_{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    library = build_folder() / name / f"{name}.so"
    if not library.exists():
        _build(name, text, flags, library, compile)
    return library


def _find_or_build(flags: str) -> ctypes.CDLL | BuildError:
    flags = f"{COMMON_FLAGS} {flags} {os.environ.get('ANNSOFTMAX_EXTRA_FLAGS', '')}"
    try:
        return ctypes.CDLL(str(cached_library("annsoftmax_cpu", source(), flags, _compile)))
    except BuildError as error:
        return error
    except OSError as error:
        return BuildError(f"the C++ kernels in {build_folder()} cannot be written or loaded: {error}")


def _build(name: str, text: str, flags: str, library: Path, compile: Callable[[str, str, str, str], Path]) -> None:
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        raise BuildError(
            f"the C++ kernels need a C++ compiler and {compiler} is not on PATH: install one "
            "(apt-get install g++, or conda install -c conda-forge cxx-compiler) or set CXX"
        )
    folder = build_folder()
    folder.mkdir(parents=True, exist_ok=True)
    _delete_leftovers(folder)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder, ignore_cleanup_errors=True) as workplace:
        built = compile(name, text, flags, workplace)
        library.parent.mkdir(exist_ok=True)
        for kept in (Path(workplace, part) for part in ("main.cpp", "cuda.cu")):
            if kept.exists():  # for a debugger and for readers
                kept.replace(library.parent / kept.name)
        built.replace(library)
    logger.info("built %s in %.1f s", name, time.perf_counter() - start)


def _compile(name: str, text: str, flags: str, workplace: str) -> Path:
    # Where there is an nvcc and no GPU, its import warns of that; kernels in C++ need neither.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.cpp_extension import load_inline  # takes half a second, which a later load is spared

    logger.warning("building the C++ kernels in %s, once, for about 10 seconds", build_folder())
    try:
        with ninja_on_path():
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
    except (RuntimeError, OSError, ImportError) as error:
        raise BuildError(f"the C++ kernels cannot be compiled: {first_cause(str(error))}") from error
    return Path(path)


@contextlib.contextmanager
def ninja_on_path() -> Iterator[None]:
    """load_inline wants ninja on PATH; an environment that is not activated has it beside its python."""
    before = os.environ.get("PATH", "")
    places = [before, str(Path(sys.executable).parent)]
    with contextlib.suppress(ImportError):
        import ninja

        places.append(ninja.BIN_DIR)
    os.environ["PATH"] = os.pathsep.join(places)
    try:
        yield
    finally:
        os.environ["PATH"] = before


def first_cause(message: str) -> str:
    """The compiler's first error, else the first line of what went wrong."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return next((line for line in lines if re.search(r"\berror: ", line)), lines[0] if lines else "no message")


def _delete_leftovers(folder: Path) -> None:
    for path in folder.glob("unfinished-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFTOVERS:
                shutil.rmtree(path, ignore_errors=True)
