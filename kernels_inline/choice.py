"""Which backend was asked for: by ``use`` for a block, by $ANNSOFTMAX_BACKEND for a process.

auto      CUDA kernels for tensors on a GPU, C++ kernels for those on the CPU; torch where they cannot be built
torch     plain torch
cpp       the C++ kernels, or an error that says why not; tensors on a GPU go to plain torch
cuda      the CUDA kernels, or an error that says why not; tensors on the CPU go to plain torch
emulator  the CUDA kernels' source, run on the CPU (kernels_inline/cuda/emulator.h): for tests, far too slow to train
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from torch import Tensor

BACKENDS = ("auto", "torch", "cpp", "cuda", "emulator")

_forced: list[str] = []  # by ``use``, innermost last
_as_on_a_gpu = False


def current() -> str:
    """The backend asked for: one of ``BACKENDS``."""
    return _forced[-1] if _forced else _checked(os.environ.get("ANNSOFTMAX_BACKEND", "auto"))


@contextlib.contextmanager
def use(name: str) -> Iterator[None]:
    """Inside the block, stages run on that backend (one of ``BACKENDS``)."""
    _forced.append(_checked(name))
    try:
        yield
    finally:
        _forced.pop()


def shapes_are_fixed(tensor: Tensor) -> bool:
    """Whether no shape is to depend on values of such tensors: on a GPU, whose host would have to wait for them."""
    return tensor.is_cuda or _as_on_a_gpu


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Inside the block, tensors on the CPU are treated so, too: for tests."""
    global _as_on_a_gpu
    _as_on_a_gpu = True
    try:
        yield
    finally:
        _as_on_a_gpu = False


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; it should be one of {', '.join(BACKENDS)}")
    return name
