"""Runs the launchers of a .cu file: in the emulator under both orders of the threads, and on a GPU where there is one.

    @pytest.fixture(params=RUNNERS)
    def call(request):
        return runner(request.param, "encode.cu")

    def test_x(call):
        out = poisoned(5, dtype=torch.int64)
        assert call("sign_codes_v", 2, rows, ..., out) == 0     # no stream: the runner adds it

Every tensor is handed over as a copy between two guards of 64 bytes, which must be untouched afterwards, and what the
kernel has written is then copied back. So the tests of a file are the same for all runners.
"""

import ctypes
import functools
import re
import subprocess
from pathlib import Path

import pytest
import torch

from kernels_inline import compiler
from kernels_inline.cuda import emulator, nvcc, sources

FOLDER = emulator.FOLDER
RUNNERS = ["forward", "reverse", pytest.param("cuda", marks=pytest.mark.gpu)]
GUARD, GUARD_BYTE = 64, 0xA5  # 64 bytes keep the alignment that torch gives
POISON, POISON_INT = 0xCD, int.from_bytes(b"\xcd" * 4, "little", signed=True)
PLANTED = Path(__file__).parent / "kernels_inline" / "planted"  # kernels for tests of the emulator


def runner(name, file):
    """call(function, *arguments without the stream) -> the launcher's code. name: one of RUNNERS."""

    def call(function, *arguments):
        device = "cuda" if name == "cuda" else "cpu"
        kept = {id(a): Guarded(a, device) for a in arguments if isinstance(a, torch.Tensor)}
        passed = [kept[id(a)].inner if id(a) in kept else a for a in arguments]
        if name == "cuda":
            code = _call_on_gpu(_gpu_library(file), function, *passed)
        else:
            with emulator.schedule(name):
                code = emulator.call(emulator.load(FOLDER / file), function, *passed, None)
        for guarded in kept.values():
            guarded.copy_back(function)
        return code

    return call


def poisoned(*shape, dtype):
    """A tensor whose every byte is 0xCD."""
    tensor = torch.empty(shape, dtype=dtype)
    tensor.view(torch.uint8).fill_(POISON)
    return tensor


def is_poisoned(tensor):
    return bool((tensor.contiguous().view(torch.uint8) == POISON).all())


def index(file):
    """The names of the versions in the index at the head of a .cu file: lines `//   name_1   what it does`."""
    head = re.match(r"(?://.*\n)*", (FOLDER / file).read_text()).group()
    return re.findall(r"^//\s+([a-z]\w*_\d+)\s+\S", head, re.MULTILINE)


def versions(file, name):
    """The numbers of the versions of the launcher ``name``."""
    return [int(entry.rsplit("_", 1)[1]) for entry in index(file) if entry.rsplit("_", 1)[0] == name]


class Guarded:
    """A copy of a tensor on a device, with guards before and behind it."""

    def __init__(self, tensor, device):
        if not tensor.is_contiguous():
            raise ValueError(f"a tensor has strides {tensor.stride()}; launchers take contiguous ones")
        self.outer = tensor
        size = tensor.numel() * tensor.element_size()
        self.buffer = torch.full((size + 2 * GUARD,), GUARD_BYTE, dtype=torch.uint8, device=device)
        self.inner = self.buffer[GUARD : GUARD + size].view(tensor.dtype).view(tensor.shape)
        self.inner.copy_(tensor)

    def copy_back(self, function):
        if (self.buffer[:GUARD] != GUARD_BYTE).any() or (self.buffer[-GUARD:] != GUARD_BYTE).any():
            raise AssertionError(f"{function} wrote outside a tensor of shape {list(self.outer.shape)}")
        self.outer.copy_(self.inner)


def _call_on_gpu(library, function, *arguments):
    pointer = getattr(library, function)
    pointer.restype = ctypes.c_int64
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    code = pointer(*map(compiler.c_value, arguments), stream)
    torch.cuda.synchronize()
    if code < 0:
        raise RuntimeError(f"{function}: CUDA error {-code}")
    return code


@functools.cache
def _gpu_library(file):
    """One .cu file compiled by nvcc for this GPU; it links nothing of torch, so this takes a few seconds."""
    arch = "sm_{}{}".format(*torch.cuda.get_device_capability())

    def compile(name, text, flags, workplace):
        main, library = Path(workplace, "main.cpp"), Path(workplace, f"{name}.so")
        main.write_text(text)
        command = [nvcc.find(), *flags.split(), "-x", "cu", main, "-o", library]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return library

    flags = f"{' '.join(nvcc.FLAGS)} -arch={arch} -Xcompiler -fPIC -shared"
    text = sources.joined("launch.h", [FOLDER / file])
    return compiler.cached_library("test_cuda", text, flags, compile)
