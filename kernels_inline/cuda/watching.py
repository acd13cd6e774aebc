"""Who used which memory, in a library of the emulator's variant "counting": see counting.h.

    library = emulator.load(text, "counting")
    with watching.only([x, out], library, recording=True):
        emulator.call(library, "launch", ...)
        uses = watching.uses(library)

Inside the block a launch that would use global memory outside these tensors ends before it does, with a RuntimeError;
``fault`` says what it would have done.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

# One access. block and thread: their numbers, x first. code: the place in the library, for `lines`.
USE = np.dtype([(name, np.int64) for name in ("block", "thread", "code", "address", "bytes", "store", "shared")])


@contextlib.contextmanager
def only(
    tensors: Sequence[Tensor] | None, library: ctypes.CDLL, recording: bool = False, counting: bool = False
) -> Iterator[None]:
    """Inside the block launches may use no global memory but these tensors (None: any), and are recorded and counted or
    not."""
    given = tensors or []
    ranges = np.array([(x.data_ptr(), x.numel() * x.element_size()) for x in given], np.int64).reshape(-1, 2)
    place = None if tensors is None else ranges.ctypes.data_as(ctypes.c_void_p)
    _watch(library, place, len(ranges), recording, counting)
    try:
        yield
    finally:
        _watch(library, None, 0, False, True)


def uses(library: ctypes.CDLL) -> np.ndarray:
    """All accesses recorded since the block began, in the order in which they came: an array of ``USE``."""
    library.emulator_uses.restype = ctypes.c_int64
    found = np.empty(library.emulator_uses(None, ctypes.c_int64(0)), USE)
    library.emulator_uses(found.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(len(found)))
    return found


def fault(library: ctypes.CDLL) -> np.void | None:
    """The access outside all tensors that ended a launch, of ``USE``; None if there was none."""
    found = np.zeros(1, USE)
    library.emulator_fault(found.ctypes.data_as(ctypes.c_void_p))
    return found[0] if found[0]["bytes"] else None


def lines(library: ctypes.CDLL, codes: Sequence[int]) -> dict[int, list[tuple[str, int]]]:
    """For each place in the code its (file, line): that of an inlined function first, then who called it."""
    codes = sorted(set(map(int, codes)))
    found: dict[int, list[tuple[str, int]]] = {code: [] for code in codes}
    if not codes or shutil.which("addr2line") is None:  # it comes with the linker that g++ needs
        return found
    # The place is where the call to counting.h returns to; the call itself stands before it.
    asked = [hex(code - 1) for code in codes]
    run = subprocess.run(
        ["addr2line", "-a", "-i", "-e", library._name, *asked], capture_output=True, text=True, check=True
    )
    for line in run.stdout.splitlines():
        if line.startswith("0x"):
            places = found[int(line, 16) + 1]
        elif place := re.match(r"(?:.*/)?([^/]+):(\d+)", line):
            places.append((place.group(1), int(place.group(2))))
    return found


def _watch(library: ctypes.CDLL, ranges, count: int, recording: bool, counting: bool) -> None:
    library.emulator_watch(ranges, ctypes.c_int64(count), ctypes.c_int64(recording), ctypes.c_int64(counting))
