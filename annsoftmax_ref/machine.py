"""What machine this is: for the records of measurements, and for ``annsoftmax doctor``."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import torch

CPU_FEATURES = ("avx2", "avx512f", "avx512bw", "avx512_vpopcntdq", "avx512_bf16", "amx_tile")


def cpu_name() -> str:
    match = re.search(r"model name\s*:\s*(.+)", _cpuinfo())
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """Those of ``CPU_FEATURES`` that this CPU has; empty where the system does not say."""
    match = re.search(r"^flags\s*:\s*(.+)", _cpuinfo(), re.MULTILINE)
    flags = set(match.group(1).split()) if match else set()
    return [name for name in CPU_FEATURES if name in flags]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def version_of(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def tool_version(name: str) -> str | None:
    """The version line of a program on PATH that understands ``--version``, or None."""
    path = shutil.which(name)
    if path is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        lines = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20).stdout.splitlines()
        return next((line.strip() for line in lines if re.search(r"\d+\.\d+", line)), None)
    return None


def describe(device: str | torch.device = "cpu") -> dict:
    """The facts a measurement is recorded with."""
    gpu = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "cpu": cpu_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": version_of("numpy"),
        "annsoftmax": version_of("annsoftmax-ref"),
    }


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
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that malloc keeps would hide a peak
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


def _cpuinfo() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/cpuinfo").read_text()
    return ""
