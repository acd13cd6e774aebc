"""Which implementation of a stage runs: plain torch, or the C++ or CUDA kernels of ``kernels_inline``.

``auto`` takes kernels for float32 tensors where they can be built (CUDA ones on a GPU, C++ ones on the CPU), else
torch, and says why once, in a log line. ``use("torch")``, "cpp", "cuda" or "emulator" forces one for a block,
$ANNSOFTMAX_BACKEND for a process (``kernels_inline.choice`` says what each is). The kernels compute the same as the
torch code beside them, to rounding (tests/test_backend.py, tests/kernels_inline/test_cuda_dispatch.py).
"""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

from kernels_inline import build
from kernels_inline.choice import BACKENDS, current, use

__all__ = ["BACKENDS", "current", "kernels", "use"]
# Where tensors have to be for the kernels that a backend names; None: wherever there are kernels.
PLACES = {"auto": None, "cpp": "cpu", "cuda": "cuda", "emulator": "cpu"}

logger = logging.getLogger(__name__)


def kernels(*tensors: Tensor, launcher: str | None = None) -> bool:
    """Whether the kernels are to take these tensors: all on one device, floating-point ones in float32.

    launcher: the function that the stage calls; a stage whose CUDA launcher is not there is left to torch.
    Raises BuildError, with the reason, where a backend was asked for by name and cannot be built.
    """
    name = current()
    if name == "torch":
        return False
    places = {t.device for t in tensors} or {torch.device(PLACES[name] or "cpu")}
    place = places.pop()
    # float64 has no kernel: torch is its only implementation
    fits = not places and all(t.dtype == torch.float32 for t in tensors if t.is_floating_point())
    if name == "auto":
        return fits and place.type in ("cpu", "cuda") and _can_be_had(place, launcher)
    library = build.library_for(place if place.type == PLACES[name] else torch.device(PLACES[name]))  # or BuildError
    return fits and place.type == PLACES[name] and (launcher is None or library.has(launcher))


@functools.cache
def _can_be_had(place: torch.device, launcher: str | None) -> bool:
    kind = "CUDA" if place.type == "cuda" else "C++"
    reason = _why_not(place)
    if reason is not None:
        _say_once(f"plain torch runs instead of the {kind} kernels: {reason}")
    elif launcher is not None and not build.library_for(place).has(launcher):
        reason = f"plain torch runs in place of the {kind} kernel {launcher}, which is not there"
        _say_once(reason)
    return reason is None


def _why_not(place: torch.device) -> str | None:
    if place.type == "cpu":
        return build.why_not()
    try:
        build.library_for(place)
    except build.BuildError as error:
        return str(error)
    return None


@functools.cache
def _say_once(sentence: str) -> None:
    logger.warning(sentence)
