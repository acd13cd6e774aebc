"""What machine this is: for the command line and records of measurements."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
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


def _cpuinfo() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/cpuinfo").read_text()
    return ""
