"""The library of CUDA kernels for a device: of nvcc, else of NVRTC; and, for tensors on the CPU, the emulator's.

All have ``has(name)`` and ``call(name, *arguments)``, as ``build.CppLibrary`` has; the stream, which every launcher
takes last, is added here.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import threading

import torch

from kernels_inline import compiler
from kernels_inline.compiler import BuildError
from kernels_inline.cuda import emulator, nvcc, nvrtc, sources

logger = logging.getLogger(__name__)
_lock = threading.RLock()
_outcomes: dict[tuple[int, int], CudaLibrary | BuildError] = {}  # by the device's compute capability


def load(place: torch.device) -> CudaLibrary | Emulated:
    """The kernels for tensors there. Raises BuildError, the second time without trying again."""
    if place.type == "cpu":
        return Emulated()
    if place.type != "cuda" or not torch.cuda.is_available():
        raise BuildError(f"there are no kernels for {place}: torch {torch.__version__} sees no NVIDIA GPU here")
    capability = torch.cuda.get_device_capability(place)
    outcome = _outcomes.get(capability)
    if outcome is None:
        with _lock:
            outcome = _outcomes[capability] = _outcomes.get(capability) or _find_or_build(capability)
    if isinstance(outcome, BuildError):
        raise outcome
    return outcome


class CudaLibrary:
    """A library of compiled launchers. how: "nvcc" or "NVRTC"."""

    def __init__(self, library: ctypes.CDLL, how: str):
        self.library, self.how = library, how
        self._error_text = _error_text(library)

    def has(self, name: str) -> bool:
        return hasattr(self.library, name)

    def call(self, name: str, *arguments) -> int:
        """Launch on the present stream of the tensors' device. Raises RuntimeError for an error of CUDA's."""
        place = next(argument.device for argument in arguments if isinstance(argument, torch.Tensor))
        guard = contextlib.nullcontext() if place.index == torch.cuda.current_device() else torch.cuda.device(place)
        with guard:
            stream = ctypes.c_void_p(torch.cuda.current_stream(place).cuda_stream)
            code = compiler.function_of(self.library, name)(*map(compiler.c_value, arguments), stream)
        if code < 0:
            raise RuntimeError(f"{name}: CUDA error {-code}{self._error_text(-code)}")
        return code


class Emulated:
    """The same source on the CPU, each .cu file a library of its own."""

    def has(self, name: str) -> bool:
        return name in sources.launcher_files()

    def call(self, name: str, *arguments) -> int:
        path = sources.launcher_files().get(name)
        if path is None:
            raise BuildError(f"no .cu file has a launcher {name}")
        return emulator.call(emulator.load(path), name, *arguments, None)


def _find_or_build(capability: tuple[int, int]) -> CudaLibrary | BuildError:
    reasons = []
    for how, make in (("nvcc", nvcc.build_library), ("NVRTC", nvrtc.build_library)):
        try:
            library = CudaLibrary(make(capability), how)
        except (BuildError, OSError) as error:
            reasons.append(f"{how}: {error}")
            continue
        if reasons:
            logger.warning("the CUDA kernels are compiled by %s, because of %s", how, "; ".join(reasons))
        return library
    return BuildError("the CUDA kernels cannot be built: " + "; ".join(reasons))


def _error_text(library: ctypes.CDLL):
    """code -> ": its meaning", where the library knows it."""
    if not hasattr(library, "cuda_error_text"):
        return lambda code: ""
    library.cuda_error_text.restype = ctypes.c_char_p
    return functools.cache(lambda code: ": " + library.cuda_error_text(ctypes.c_int64(code)).decode())
