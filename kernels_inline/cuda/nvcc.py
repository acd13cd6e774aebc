"""nvcc: where it is, and the CUDA kernels built by it, through load_inline, for the GPU at hand."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
from pathlib import Path

from kernels_inline import compiler
from kernels_inline.compiler import BuildError
from kernels_inline.cuda import sources

FLAGS = ("-std=c++20", "-O3", "-lineinfo")
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


def build_library(capability: tuple[int, int]) -> ctypes.CDLL:
    """The library of all kernels for GPUs of this compute capability. Raises BuildError."""
    return library_of("annsoftmax_cuda", text(), capability)


def library_of(kind: str, text: str, capability: tuple[int, int]) -> ctypes.CDLL:
    """The library of a text; ``kind`` begins its name. Raises BuildError."""
    nvcc = find()
    if nvcc is None:
        raise BuildError("there is no nvcc (conda install -c conda-forge cuda-nvcc, or set CUDA_HOME)")
    number = "{}{}".format(*capability)
    flags = " ".join((*FLAGS, f"-gencode=arch=compute_{number},code=sm_{number}"))
    return compiler.cached_library(kind, text, flags, functools.partial(_compile, nvcc.parents[1]))


def _compile(home: Path, name: str, text: str, flags: str, workplace: str) -> Path:
    from torch.utils import cpp_extension

    compiler.logger.warning("building %s in %s, once, for up to 20 seconds", name, compiler.build_folder())
    if (
        cpp_extension.CUDA_HOME is not None
        and not Path(cpp_extension.CUDA_HOME, "include").joinpath("cuda_runtime_api.h").exists()
    ):
        cpp_extension.CUDA_HOME = str(home)  # it takes the folder above a script on PATH for the toolkit
    with compiler.ready_for_load_inline(workplace):
        path = cpp_extension.load_inline(
            name,
            "",
            text,
            functions=None,
            extra_cuda_cflags=flags.split(),
            extra_include_paths=[str(sources.FOLDER)],
            build_directory=workplace,
            is_python_module=False,
            no_implicit_headers=True,
        )
    return Path(path)
