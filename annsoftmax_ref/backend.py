"""Which implementation of a stage runs: plain torch, or the C++ kernels of ``kernels_inline``.

``auto`` takes the kernels for float32 tensors on the CPU where they can be built, else torch, and says why once, in a
log line. ``use("torch")`` or ``use("cpp")`` forces one for a block, $ANNSOFTMAX_BACKEND for a process. The kernels
compute the same as the torch code beside them, to rounding (tests/test_backend.py).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator

import torch
from torch import Tensor

BACKENDS = ("auto", "torch", "cpp")

logger = logging.getLogger(__name__)
_forced: list[str] = []  # by ``use``, innermost last


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


def cpp(*tensors: Tensor) -> bool:
    """Whether the C++ kernels are to take these tensors (floating-point ones must be float32, on the CPU)."""
    if current() == "torch":
        return False
    fits = all(t.device.type == "cpu" and (not t.is_floating_point() or t.dtype == torch.float32) for t in tensors)
    if current() == "cpp":
        from kernels_inline import build

        build.load()  # raises BuildError with the reason
        return fits  # float64 has no kernel: torch is its only implementation
    return fits and _kernels_can_be_had()


@functools.cache
def _kernels_can_be_had() -> bool:
    from kernels_inline import build

    reason = build.why_not()
    if reason is not None:
        logger.warning("plain torch runs instead of the C++ kernels: %s", reason)
    return reason is None


def _checked(name: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"backend is {name!r}; it should be one of {', '.join(BACKENDS)}")
    return name
