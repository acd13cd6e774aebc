"""NVRTC, for machines without nvcc: NVIDIA's compiler as a library, which every CUDA build of torch brings along.

It compiles device code only. So the .cu files are compiled twice: by NVRTC, for the kernels, and by g++ with driver.h,
for the launchers, whose LAUNCH goes to the driver (libcuda). Both halves end up in one shared library, the kernels as
bytes; ``connect`` hands these to the driver when the library is loaded.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kernels_inline import compiler
from kernels_inline.compiler import BuildError
from kernels_inline.cuda import nvcc, sources

HOST_FLAGS = "-std=c++20 -O2 -fPIC -fno-gnu-unique -fno-math-errno -Wno-unknown-pragmas"
# In the order of driver.h's Calls.
CALLS = (
    "cuLaunchKernel",
    "cuKernelSetAttribute",
    "cuCtxGetDevice",
    "cuDeviceGetAttribute",
    "cuMemAllocAsync",
    "cuMemFreeAsync",
    "cuMemsetD8Async",
    "cuGetErrorString",
)


def find() -> Path | None:
    """libnvrtc: $ANNSOFTMAX_NVRTC, else beside torch (nvidia-cuda-nvrtc's wheel), else in nvcc's toolkit; else None."""
    if os.environ.get("ANNSOFTMAX_NVRTC"):
        return Path(os.environ["ANNSOFTMAX_NVRTC"])
    spec = importlib.util.find_spec("nvidia")
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    patterns = [(place, "*/lib/libnvrtc.so.*[0-9]") for place in places]
    if nvcc.find() is not None:
        patterns.append((nvcc.find().parents[1], "lib*/libnvrtc.so.*[0-9]"))
    found = [path for place, pattern in patterns for path in sorted(place.glob(pattern)) if ".alt." not in path.name]
    return found[0] if found else None


@functools.cache
def opened(path: Path) -> ctypes.CDLL:
    for builtins in sorted(path.parent.glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)  # NVRTC looks for it by name only
    return ctypes.CDLL(str(path))


def compile_device(
    text: str, architecture: int, expressions: Sequence[str] = (), path: Path | None = None
) -> tuple[bytes, dict[str, str], str]:
    """The kernels of a text as a cubin, the names in it of the kernels that the expressions name, and the log.

    expressions: a template's kernels are compiled only if they are named, as in "scan_cu::tile<4, 2>". Kernels that
    are extern "C" need no expression.
    Raises BuildError with the compiler's first error.
    """
    path = path or find()
    if path is None:
        raise BuildError("there is no NVRTC (pip install nvidia-cuda-nvrtc)")
    library, program = opened(path), ctypes.c_void_p()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None))
    try:
        for expression in expressions:
            _check(library, library.nvrtcAddNameExpression(program, expression.encode()))
        options = [f"--gpu-architecture=sm_{architecture}", "--std=c++20", "-default-device", "--ptxas-options=-v"]
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = library.nvrtcCompileProgram(program, len(options), given)
        log = _bytes(library, program, "ProgramLog").rstrip(b"\0").decode()
        if failed:
            raise BuildError(f"NVRTC cannot compile them: {compiler.first_cause(log)}")
        names = {}
        for expression in expressions:
            lowered = ctypes.c_char_p()
            _check(library, library.nvrtcGetLoweredName(program, expression.encode(), ctypes.byref(lowered)))
            names[expression] = lowered.value.decode()
        return _bytes(library, program, "CUBIN"), names, log
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _bytes(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    room = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, room))
    return room.raw


def _check(library: ctypes.CDLL, code: int) -> None:
    if code:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise BuildError(f"NVRTC failed: {library.nvrtcGetErrorString(code).decode()}")


def device_text(paths: Sequence[Path] = ()) -> str:
    return sources.joined("device_only.h", paths)


def build_library(capability: tuple[int, int]) -> ctypes.CDLL:
    """The library of all kernels, connected to the driver. Raises BuildError or OSError."""
    library = make_library(10 * capability[0] + capability[1])
    driver = ctypes.CDLL("libcuda.so.1")
    connect(library, driver)
    return library


def make_library(architecture: int, paths: Sequence[Path] = ()) -> ctypes.CDLL:
    """Launchers and kernels of .cu files (default: all) in one library, found or built, not connected yet."""
    if find() is None:
        raise BuildError("there is no NVRTC (pip install nvidia-cuda-nvrtc)")
    host, device = sources.joined("driver.h", paths), device_text(paths)
    headers = "".join(path.read_text() for path in sorted(sources.FOLDER.glob("*.h")))

    def compile(name: str, _: str, flags: str, workplace: str) -> Path:
        compiler.logger.warning("building the CUDA kernels in %s by NVRTC, once", compiler.build_folder())
        folder, cxx = Path(workplace), compiler.cxx()
        Path(folder, "main.cpp").write_text(host, encoding="utf-8")
        run(*cxx, *flags.split(), "-I", sources.FOLDER, "-c", folder / "main.cpp", "-o", folder / "main.o")
        wanted = host_kernels(folder / "main.o", sources.kernel_names(device))
        cubin, names, _ = compile_device(
            device, architecture, [name for symbol, name in wanted.items() if symbol != name]
        )
        (folder / "kernels.cubin").write_bytes(cubin)
        (folder / "table.cpp").write_text(_table(folder / "kernels.cubin", wanted, names))
        run(*cxx, "-fPIC", "-c", folder / "table.cpp", "-o", folder / "table.o")
        run(*cxx, "-shared", "-Wl,-Bsymbolic", folder / "main.o", folder / "table.o", "-o", folder / f"{name}.so")
        return folder / f"{name}.so"

    text = host + device + headers + str(find())
    return compiler.cached_library(f"annsoftmax_nvrtc{architecture}", text, HOST_FLAGS, compile)


def host_kernels(file: Path, kernels: Sequence[str]) -> dict[str, str]:
    """The kernels that the launchers in an object file launch: {symbol: name as C++ writes it}."""
    lines = [line.split() for line in run("nm", "--defined-only", "--extern-only", file).splitlines()]
    symbols = [line[-1] for line in lines if line[-2] in "TW"]  # code; the rest are shared arrays of kernels
    plain = run("c++filt", "-p", *symbols).splitlines()
    named = dict(zip(symbols, plain, strict=True))
    return {s: name for s, name in named.items() if name.split("<")[0].split("::")[-1] in set(kernels)}


def _table(cubin: Path, wanted: dict[str, str], names: dict[str, str]) -> str:
    """C++ text with the cubin's bytes, and which of its kernels each of the launchers' symbols stands for."""
    lines = "".join(f"{symbol} {names.get(name, symbol)}\\n" for symbol, name in wanted.items())
    return (
        f'extern "C" {{ extern const char driver_names[]; const char driver_names[] = "{lines}"; }}\n'
        'asm(".pushsection .rodata\\n.balign 16\\n.globl driver_cubin\\ndriver_cubin:\\n'
        f'.incbin \\"{cubin}\\"\\n.popsection");\n'
    )


def connect(library: ctypes.CDLL, driver) -> None:
    """Give the library's kernels to the driver. driver: libcuda, or something with the same functions."""
    calls = (ctypes.c_void_p * len(CALLS))(*(ctypes.cast(getattr(driver, name), ctypes.c_void_p) for name in CALLS))
    library.driver_connect(calls)
    loaded = ctypes.c_void_p()
    cubin = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(library, "driver_cubin")))
    _ask(driver, "cuLibraryLoadData", ctypes.byref(loaded), cubin, None, None, 0, None, None, 0)
    names = ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(library, "driver_names"))).decode()
    for symbol, name in (line.split() for line in names.splitlines()):
        kernel = ctypes.c_void_p()
        _ask(driver, "cuLibraryGetKernel", ctypes.byref(kernel), loaded, name.encode())
        library.driver_kernel(ctypes.cast(getattr(library, symbol), ctypes.c_void_p), kernel)


def _ask(driver, name: str, *arguments) -> None:
    code = getattr(driver, name)(*arguments)
    if code:
        raise BuildError(f"the GPU's driver answers {name} with error {code}")


@functools.cache
def instances(file: Path) -> list[str]:
    """The kernels that the launchers of a .cu file launch, as C++ writes them."""
    with tempfile.TemporaryDirectory() as folder:
        main = Path(folder, "main.cpp")
        main.write_text(sources.joined("driver.h", [file]), encoding="utf-8")
        command = [*compiler.cxx(), *HOST_FLAGS.split(), "-O0", "-I", sources.FOLDER]
        run(*command, "-c", main, "-o", main.with_suffix(".o"))
        return list(host_kernels(main.with_suffix(".o"), sources.kernel_names(file.read_text())).values())


def run(*command) -> str:
    """What a program prints. Raises BuildError, with its first error, if it fails or is not there."""
    try:
        run = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise BuildError(f"{command[0]} is not on PATH, and the kernels' launchers need it") from error
    if run.returncode:
        raise BuildError(f"the kernels' launchers cannot be compiled: {compiler.first_cause(run.stderr)}")
    return run.stdout
