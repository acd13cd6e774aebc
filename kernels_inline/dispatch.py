"""The one decision, and the call: do kernels run for these tensors or the torch beside them, and in which library?

An op declares, where it is defined, the launchers that it needs; ``runs`` says whether they are to be called. Whoever
has both an op and its torch twin asks it first:

    lists = assign(rows, centroids) if runs(assign, rows, centroids) else (rows @ centroids.T).argmax(dim=1)

``auto`` takes kernels for float32 tensors where they can be built (CUDA ones on a GPU, C++ ones on the CPU), else
torch, and says why once, in a log line. The other backends are those of ``choice``.
"""

from __future__ import annotations

import functools
import logging

import torch
from torch import Tensor

from kernels_inline import build
from kernels_inline.checks import ROW_KINDS
from kernels_inline.choice import current
from kernels_inline.compiler import BuildError
from kernels_inline.cuda import library
from kernels_inline.kernel_op import LAUNCHERS, KernelOp

# Where tensors have to be for the kernels that a backend names; None: wherever there are kernels.
PLACES = {"auto": None, "cpp": "cpu", "cuda": "cuda", "emulator": "cpu"}

logger = logging.getLogger(__name__)


def runs(op: KernelOp | None = None, *tensors: Tensor, rows: Tensor | None = None) -> bool:
    """Whether the op's kernels are to take these tensors: all on one device, floating-point ones in float32.

    rows: of a weight, for ops that read them in all ``checks.ROW_KINDS``.
    An op with a launcher that a library does not have is torch's on that library's device. Without an op: whether
    there are kernels at all. Raises BuildError, with the reason, where a backend was asked for by name and cannot be
    built.
    """
    name, launchers = current(), () if op is None else LAUNCHERS[op]
    if name == "torch":
        return False
    # float64 has no kernel: torch is its only implementation
    fits = all(t.dtype == torch.float32 for t in tensors if t.is_floating_point())
    if rows is not None:
        fits, tensors = fits and rows.dtype in ROW_KINDS, (*tensors, rows)
    places = {t.device for t in tensors} or {torch.device(PLACES[name] or "cpu")}
    place = places.pop()
    fits = fits and not places
    if name == "auto":
        return fits and place.type in ("cpu", "cuda") and _can_be_had(place, launchers)
    kernels = library_for(place if place.type == PLACES[name] else torch.device(PLACES[name]))  # or BuildError
    return fits and place.type == PLACES[name] and all(map(kernels.has, launchers))


@functools.cache
def _can_be_had(place: torch.device, launchers: tuple[str, ...]) -> bool:
    try:
        kernels = library_for(place)
    except BuildError as error:
        kind = "CUDA" if place.type == "cuda" else "C++"
        _say_once(f"plain torch runs instead of the {kind} kernels: {error}")
        return False
    return all(map(kernels.has, launchers))


@functools.cache
def _say_once(sentence: str) -> None:
    logger.warning(sentence)


def call(name: str, *arguments: Tensor | int | float | None) -> int:
    """Call the function ``name`` of the library for the tensors' device and return its code.

    Tensors are passed as pointers to their first element (None: a null pointer), so they must be contiguous; that,
    and their sizes, are for the caller to check. int and bool become int64_t, float double. Tensors on a GPU go to
    the CUDA library, on the present stream; those on the CPU to the C++ library, or under the backend "emulator" to
    the CUDA kernels run on the CPU. Pinned memory of the host goes with those on a GPU, which reads and writes it where
    it lies. Raises ValueError for tensors on several devices, BuildError, and RuntimeError
    for an error of CUDA's.
    """
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    on_gpu = any(tensor.is_cuda for tensor in tensors)
    places = {t.device for t in tensors if not (on_gpu and is_pinned(t))} or {torch.device("cpu")}
    if len(places) > 1:
        raise ValueError(f"the tensors for {name} are on {', '.join(sorted(map(str, places)))}; one device is needed")
    return library_for(places.pop()).call(name, *arguments)


def is_pinned(tensor: Tensor) -> bool:
    return not tensor.is_cuda and tensor.is_pinned()


def library_for(place: torch.device):
    """What runs the kernels for tensors there: an object with ``has(name)`` and ``call(name, *arguments)``.

    Raises BuildError where there is none.
    """
    if place.type == "cpu" and current() != "emulator":
        return build.library()
    return library.load(place)
