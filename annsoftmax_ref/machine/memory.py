"""Memory on the CPU: keep what was freed, and know how much is held.

A step makes and frees matrices of tens or hundreds of megabytes. By default glibc gives them back to the system and
the next step gets new pages, which the system has to clear first: that can take longer than the work done in them.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

import torch

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """From now on, memory that this process frees stays with it for reuse (as torch does on a GPU).

    For the whole process, for good; call it first thing in a program that trains on the CPU. The command line does.
    Returns False, and changes nothing, where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[dict]:
    """Fills ``{"peak_mb": ...}``: the most memory in use inside the block over that in use before it, in MB.

    On the GPU torch's allocator counts; on Linux the kernel's high-water mark of the process. Elsewhere None.
    """
    result: dict = {"peak_mb": None}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield result
        result["peak_mb"] = (torch.cuda.max_memory_allocated(device) - before) / 2**20
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # memory kept for reuse would hide a peak
    before = _reset_high_water()
    yield result
    if before is not None:
        result["peak_mb"] = max(0.0, _status_mb("VmHWM") - before)


def resident_mb() -> float | None:
    """Memory that this process holds at present, in MB; None where the system does not say."""
    with contextlib.suppress(OSError):
        return _status_mb("VmRSS")
    return None


def _reset_high_water() -> float | None:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # 5: set the high-water mark to the present size
        return _status_mb("VmRSS")
    except OSError:
        return None


def _status_mb(field: str) -> float:
    match = re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(match.group(1)) / 1024
