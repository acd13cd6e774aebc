"""What each kernel takes of GPUs that are not here: registers, shared memory, bytes spilled, by nvcc or by NVRTC.

    annsoftmax bench compile --json results/cuda/compile.json

This needs no GPU and no CUDA build of torch. It says whether each kernel compiles for each architecture, how many
registers a thread of it takes, and how many bytes of them are spilled to memory.
"""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from kernels_inline import compiler
from kernels_inline.compiler import BuildError
from kernels_inline.cuda import nvcc, nvrtc, sources

ARCHITECTURES = (75, 80, 90, 100, 120)
RESOURCES = ("kernel", "architecture", "registers", "shared_bytes", "stack_bytes", "spill_bytes")
_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for 'sm_(?P<arch>\d+)\w?'.*?(?P<stack>\d+) bytes stack frame, "
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers"
    r"(?P<rest>[^\n]*)",
    re.DOTALL,
)


def compile_all(numbers: tuple[int, ...] | None = None) -> dict:
    """Every .cu file for every architecture, by nvcc or, where there is none, by NVRTC: {"compiler", "rows"}.

    Raises BuildError where there is neither, or where a file does not compile.
    """
    if nvcc.find() is not None:
        version = subprocess.run([nvcc.find(), "--version"], capture_output=True, text=True, check=True).stdout
        name = "nvcc " + re.search(r"release [\d.]+, V([\d.]+)", version).group(1)
        numbers = numbers or architectures(nvcc.find())
        return {"compiler": name, "rows": [row for path in sources.files() for row in by_nvcc(path, numbers)]}
    if nvrtc.find() is None:
        raise BuildError("there is neither nvcc nor NVRTC (pip install nvidia-cuda-nvrtc)")
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc.opened(nvrtc.find()).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    rows = [row for path in sources.files() for number in numbers or ARCHITECTURES for row in by_nvrtc(path, number)]
    return {"compiler": f"NVRTC {major.value}.{minor.value}", "rows": rows}


def architectures(program: Path) -> tuple[int, ...]:
    """Those of ARCHITECTURES that this nvcc compiles for."""
    known = subprocess.run([program, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout
    return tuple(number for number in ARCHITECTURES if f"sm_{number}\n" in known + "\n")


def by_nvcc(path: Path, numbers: tuple[int, ...]) -> list[dict]:
    """What each kernel of a .cu file takes on each architecture: see RESOURCES. Raises BuildError."""
    codes = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    with tempfile.TemporaryDirectory() as folder:
        main = Path(folder, "main.cu")
        main.write_text(sources.joined("launch.h", [path]), encoding="utf-8")
        command = [nvcc.find(), *nvcc.FLAGS, *codes, "-Xptxas=-v", "-c", main, "-o", Path(folder, "main.o")]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise BuildError(f"{path.name} cannot be compiled: {compiler.first_cause(run.stderr)}")
    return [{"file": path.name, **row} for row in read_report(run.stdout + run.stderr)]


def by_nvrtc(path: Path, number: int) -> list[dict]:
    """What the kernels of a .cu file take on an architecture, those of templates too where g++ is there."""
    expressions = [name for name in nvrtc.instances(path) if "<" in name]
    _, _, log = nvrtc.compile_device(nvrtc.device_text([path]), number, expressions)
    return [{"file": path.name, **row} for row in read_report(log)]


def read_report(report: str) -> list[dict]:
    """What ``ptxas -v`` says: a row a kernel and architecture, with RESOURCES."""
    rows = []
    for found in _ENTRY.finditer(report):
        shared = re.search(r"(\d+) bytes smem", found["rest"])
        rows.append(
            {
                "kernel": demangled(found["name"]),
                "architecture": int(found["arch"]),
                "registers": int(found["registers"]),
                "shared_bytes": int(shared.group(1)) if shared else 0,
                "stack_bytes": int(found["stack"]),
                "spill_bytes": int(found["stores"]) + int(found["loads"]),
            }
        )
    return sorted(rows, key=lambda row: (row["kernel"], row["architecture"]))


@functools.cache
def demangled(name: str) -> str:
    """A kernel's name as it is written, without its arguments; as given where the tool for it is missing."""
    if not name.startswith("_Z") or shutil.which("c++filt") is None:
        return name
    plain = subprocess.run(["c++filt", "-p", name], capture_output=True, text=True, check=True).stdout.strip()
    return re.sub(r"^void |\w+_cu::", "", plain)


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table: a line a kernel, its registers (and bytes spilled) on each architecture."""
    numbers = sorted({row["architecture"] for row in rows})
    lines = ["| file | kernel | " + " | ".join(f"sm_{n}" for n in numbers) + " |", "|---" * (2 + len(numbers)) + "|"]
    for file, kernel in dict.fromkeys((row["file"], row["kernel"]) for row in rows):
        found = {row["architecture"]: row for row in rows if (row["file"], row["kernel"]) == (file, kernel)}
        cells = [f"{found[n]['registers']}{_spilled(found[n])}" if n in found else "-" for n in numbers]
        lines.append(f"| {file} | {kernel} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spilled(row: dict) -> str:
    return f" ({row['spill_bytes']} B spilled)" if row["spill_bytes"] else ""
