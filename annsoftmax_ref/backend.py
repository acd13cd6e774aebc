"""Which implementation of a stage runs: plain torch, or the C++ or CUDA kernels of ``kernels_inline``.

A stage that has an op of ``kernels_inline`` asks ``runs(op, *tensors)``, and does it in torch where the answer is no.
``use("torch")``, "cpp", "cuda" or "emulator" forces a backend for a block, $ANNSOFTMAX_BACKEND for a process
(``kernels_inline.choice`` says what each is). The kernels compute the same as the torch code beside them, to rounding
(tests/test_backend.py, tests/kernels_inline/test_dispatch.py). ``uncompiled`` keeps ``torch.compile`` out of a method.
"""

from __future__ import annotations

import functools
import sys

import torch

from kernels_inline.choice import BACKENDS, as_on_a_gpu, current, shapes_are_fixed, use
from kernels_inline.dispatch import runs

__all__ = ["BACKENDS", "as_on_a_gpu", "current", "runs", "shapes_are_fixed", "uncompiled", "use"]


def uncompiled(method):
    """A method that ``torch.compile`` leaves as it is, and goes on after: compiling what a head does takes it a minute,
    and gains nothing."""
    disabled = None

    @functools.wraps(method)
    def wrapped(*args, **kwargs):
        nonlocal disabled
        if disabled is None:
            if "torch._dynamo" not in sys.modules:  # nothing is compiled, and to import it takes a second
                return method(*args, **kwargs)
            disabled = torch.compiler.disable(method)
        return disabled(*args, **kwargs)

    return wrapped
