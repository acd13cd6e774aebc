"""nvcc: the CUDA kernels built by load_inline for the GPU at hand, and compiled for GPUs that are not.

    annsoftmax bench compile --json results/cuda/compile.json

The second way needs no GPU and no CUDA build of torch: it says whether each kernel compiles for each architecture,
how many registers a thread of it takes, and how many bytes of them are spilled to memory.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from kernels_inline import build
from kernels_inline.cuda import sources

FLAGS = ("-std=c++20", "-O3", "-lineinfo")
ARCHITECTURES = (75, 80, 90, 100, 120)
# What the driver or nvcc's own code says when an architecture is meant that a compiler does not know.
ERROR_TEXT = 'extern "C" const char* cuda_error_text(int64_t code) { return cudaGetErrorString(cudaError_t(code)); }\n'


def find() -> Path | None:
    """nvcc itself, below its toolkit's folder: $CUDA_HOME or $CUDA_PATH, PATH, or /usr/local/cuda; else None."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    on_path = shutil.which("nvcc")
    if on_path is not None:
        homes.append(Path(on_path).resolve().parents[1])
    for home in [*homes, "/usr/local/cuda"]:
        nvcc = Path(home, "bin", "nvcc")
        # A script on PATH that starts nvcc has no headers beside it.
        if nvcc.is_file() and list(Path(home).glob("include/cuda_runtime_api.h")):
            return nvcc
    return None


def text() -> str:
    """What is compiled for a GPU."""
    return sources.joined("launch.h") + ERROR_TEXT


def build_library(capability: tuple[int, int]):
    """The library of all kernels for GPUs of this compute capability. Raises build.BuildError or OSError."""
    nvcc = find()
    if nvcc is None:
        raise build.BuildError("there is no nvcc (conda install -c conda-forge cuda-nvcc, or set CUDA_HOME)")
    number = "{}{}".format(*capability)
    flags = " ".join((*FLAGS, f"-gencode=arch=compute_{number},code=sm_{number}"))
    path = build.cached_library("annsoftmax_cuda", text(), flags, functools.partial(_compile, nvcc.parents[1]))
    return ctypes.CDLL(str(path))


def _compile(home: Path, name: str, text: str, flags: str, workplace: str) -> Path:
    from torch.utils import cpp_extension

    build.logger.warning("building the CUDA kernels in %s, once, for about 20 seconds", build.build_folder())
    if (
        cpp_extension.CUDA_HOME is not None
        and not Path(cpp_extension.CUDA_HOME, "include").joinpath("cuda_runtime_api.h").exists()
    ):
        cpp_extension.CUDA_HOME = str(home)  # it takes the folder above a script on PATH for the toolkit
    try:
        with build.ninja_on_path():
            path = cpp_extension.load_inline(
                name,
                "",
                text,
                functions=None,
                extra_cuda_cflags=flags.split(),
                build_directory=workplace,
                is_python_module=False,
                no_implicit_headers=True,
            )
    except (RuntimeError, OSError, ImportError, IndexError) as error:
        raise build.BuildError(f"load_inline cannot compile them: {build.first_cause(str(error))}") from error
    return Path(path)


def architectures(nvcc: Path) -> tuple[int, ...]:
    """Those of ARCHITECTURES that this nvcc compiles for."""
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout
    return tuple(number for number in ARCHITECTURES if f"sm_{number}\n" in known + "\n")


def resources(path: Path, numbers: tuple[int, ...], nvcc: Path | None = None) -> list[dict]:
    """What each kernel of a .cu file takes on each architecture: see RESOURCES. Raises build.BuildError."""
    nvcc = nvcc or find()
    codes = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in numbers]
    with tempfile.TemporaryDirectory() as folder:
        main = Path(folder, "main.cu")
        main.write_text(sources.joined("launch.h", [path]))
        command = [nvcc, *FLAGS, *codes, "-Xptxas=-v", "-c", main, "-o", Path(folder, "main.o")]
        run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise build.BuildError(f"{path.name} cannot be compiled: {build.first_cause(run.stderr)}")
    return [{"file": path.name, **row} for row in read_report(run.stdout + run.stderr)]


RESOURCES = ("kernel", "architecture", "registers", "shared_bytes", "stack_bytes", "spill_bytes")
_ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for 'sm_(?P<arch>\d+)\w?'.*?(?P<stack>\d+) bytes stack frame, "
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers"
    r"(?P<rest>[^\n]*)",
    re.DOTALL,
)


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


def compile_all(numbers: tuple[int, ...] | None = None) -> dict:
    """Every .cu file for every architecture, by nvcc or, where there is none, by NVRTC: {"compiler", "rows"}.

    Raises build.BuildError where there is neither, or where a file does not compile.
    """
    nvcc = find()
    if nvcc is not None:
        numbers = numbers or architectures(nvcc)
        version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
        compiler = "nvcc " + re.search(r"release [\d.]+, V([\d.]+)", version).group(1)
        rows = [row for path in sources.files() for row in resources(path, numbers, nvcc)]
    else:
        from kernels_inline.cuda import nvrtc

        compiler, rows = nvrtc.compile_all(numbers or ARCHITECTURES)
    return {"compiler": compiler, "rows": rows}


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
