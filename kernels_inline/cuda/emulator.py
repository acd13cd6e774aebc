"""Builds .cu files with g++ and emulator.h, and calls their launchers: CUDA without a GPU.

    library = emulator.load(Path("encode.cu"))
    with emulator.schedule("reverse"):
        emulator.call(library, "sign_codes", rows, count, width, codes, None)  # the last one is the stream

The same source can be built in four variants:

    plain      for tests; a million threads that never wait take about 0.06 s here, and every wait about 50 ns
    counting   `counts` tells how often the kernels read and wrote global and shared memory; watching.py, who did
    asan       AddressSanitizer reports accesses outside an array, in shared memory too
    races      ThreadSanitizer reports two threads that use the same memory without a barrier between them,
               with both lines. To it every CUDA thread is a thread of its own

The run-time libraries of asan and races have to be loaded before python, so these run in a process of their own:
see `run_sanitized`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from kernels_inline import compiler
from kernels_inline.cuda.sources import text_of

FOLDER = Path(__file__).parent
# Local names in unnamed namespaces (see `source`), no symbols shared with other libraries, no fused multiply and add
# where the kernel does not ask for it, so that results are the same on every CPU.
COMMON = "-std=c++20 -fPIC -fno-gnu-unique -ffp-contract=off -fno-math-errno -Wno-unknown-pragmas"
# Compiler's flags and linker's flags. The counting variant is not linked with ThreadSanitizer: the calls that the
# compiler inserts for it go to counting.h. Loops are not vectorised there, so that an access stays an access; -g1 is
# enough to tell the line of one.
VARIANTS = {
    "plain": ("-O2", ""),
    "counting": ("-O2 -g1 -gdwarf-4 -fno-tree-vectorize -fsanitize=thread -DEMULATOR_COUNT", ""),
    "asan": ("-O1 -g -fno-omit-frame-pointer -fsanitize=address", "-fsanitize=address"),
    "races": ("-O1 -g -fno-omit-frame-pointer -fsanitize=thread", "-fsanitize=thread"),
}
SANITIZERS = {
    "asan": (("libasan.so", "libstdc++.so"), {"ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0"}),
    # Only the kernels are instrumented; what python and torch do is not looked at.
    "races": (("libtsan.so", "libstdc++.so"), {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1:report_bugs=1"}),
}
SCHEDULES = ("forward", "reverse")
COUNTS = (
    "global_loads",
    "global_stores",
    "global_load_bytes",
    "global_store_bytes",
    "global_requests",
    "global_sectors",
    "shared_loads",
    "shared_stores",
    "shared_load_bytes",
    "shared_store_bytes",
    "shared_requests",
    "shared_wavefronts",
)
_local = threading.local()


def load(sources: str | Path | Sequence[str | Path] = (), variant: str = "plain") -> ctypes.CDLL:
    """The library of these .cu files (default: all of this folder), built if this machine does not have it yet.

    A str is the text of a kernel file itself; its lines are those of "kernel.cu" in messages.
    Raises compiler.BuildError with the compiler's first error.
    """
    return _load(source(sources), variant)


def call(library: ctypes.CDLL, name: str, *arguments: Tensor | int | float | None) -> int:
    """Call the launcher ``name`` under the present schedule; arguments as for dispatch.call, the stream last (None).

    Returns the launcher's code if it is not negative. Raises RuntimeError with what the emulator says went wrong.
    """
    function = getattr(library, name)
    function.restype = ctypes.c_int64
    library.emulator_schedule(ctypes.c_int64(present_schedule() == "reverse"))
    code = function(*map(compiler.c_value, arguments))
    library.emulator_error.restype = ctypes.c_char_p
    message = library.emulator_error().decode()
    library.emulator_clear()
    if message or code < 0:
        raise RuntimeError(f"{name}: {message or f'the launcher returned {code}'}")
    return code


@contextlib.contextmanager
def schedule(order: str) -> Iterator[None]:
    """Inside the block threads run in this order: "forward" or "reverse"."""
    if order not in SCHEDULES:
        raise ValueError(f"order is {order!r}, but must be one of {', '.join(SCHEDULES)}")
    before = present_schedule()
    _local.order = order
    try:
        yield
    finally:
        _local.order = before


def present_schedule() -> str:
    return getattr(_local, "order", "forward")


def counts(library: ctypes.CDLL) -> dict[str, int]:
    """What the kernels of a library of the variant "counting" did since the last call: see COUNTS and counting.h."""
    if not hasattr(library, "emulator_counts"):
        raise ValueError('library counts nothing: it must be loaded with variant="counting"')
    values = (ctypes.c_int64 * len(COUNTS))()
    library.emulator_counts(values)
    return dict(zip(COUNTS, values, strict=True))


def run_sanitized(variant: str, code: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run python code in a process that can load libraries of the variant "asan" or "races"; reports are in stderr."""
    names, options = SANITIZERS[variant]
    variables = {
        **os.environ,
        **options,
        "LD_PRELOAD": compiler.preload(names),
        "PYTHONPATH": str(FOLDER.parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=timeout)


def source(sources: str | Path | Sequence[str | Path] = ()) -> str:
    """One text of all the files, each in an unnamed namespace, within one named after the file.

    Otherwise the static arrays of templates would be public names, which AddressSanitizer does not guard. Functions
    that are extern "C" stay visible all the same.
    """
    sources = [sources] if isinstance(sources, str | Path) else list(sources) or sorted(FOLDER.glob("*.cu"))
    parts = ['#include "emulator.h"']
    for item in sources:
        name, text = "kernel", f'#line 1 "kernel.cu"\n{item}'
        if isinstance(item, Path):
            name, text = item.stem, text_of(item)
        parts.append(f"namespace {name}_cu {{ namespace {{\n{text}\n}} }}")
    return "\n".join(parts) + "\n"


def built(sources: str | Path | Sequence[str | Path] = (), variant: str = "plain") -> Path:
    """The library that ``load`` loads, not loaded: one of asan or races can be built in any process."""
    return _cached(source(sources), variant, compiler.cached_path)


@functools.lru_cache(maxsize=64)
def _load(text: str, variant: str) -> ctypes.CDLL:
    return _cached(text, variant, compiler.cached_library)


def _cached(text: str, variant: str, cached):
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}, but must be one of {', '.join(VARIANTS)}")
    flags, link_flags = VARIANTS[variant]
    headers = "\n".join(path.read_text() for path in sorted(FOLDER.glob("*.h")))

    def compile(name: str, _: str, flags: str, workplace: str) -> Path:
        main, library = Path(workplace, "main.cpp"), Path(workplace, f"{name}.so")
        main.write_text(text, encoding="utf-8")
        cxx = compiler.cxx()
        _run([*cxx, *flags.split(), "-I", str(FOLDER), "-c", str(main), "-o", str(main.with_suffix(".o"))])
        _run([*cxx, "-shared", *link_flags.split(), str(main.with_suffix(".o")), "-o", str(library)])
        return library

    return cached(f"emulator_{variant}", text + headers, f"{COMMON} {flags} {link_flags}", compile)


def _run(command: list[str]) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # the compiler is sound
    variables["LC_ALL"] = "C"  # it says the same in every country
    run = subprocess.run(command, env=variables, capture_output=True, text=True)
    if run.returncode:
        cause = compiler.first_cause(run.stderr)
        raise compiler.BuildError(f"the kernels cannot be compiled for the CPU: {cause}", log=run.stderr)
