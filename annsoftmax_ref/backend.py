"""Which implementation of a stage runs: plain torch, or the C++ or CUDA kernels of ``kernels_inline``.

A stage that has an op of ``kernels_inline`` asks ``runs(op, *tensors)``, and does it in torch where the answer is no.
``use("torch")``, "cpp", "cuda" or "emulator" forces a backend for a block, $ANNSOFTMAX_BACKEND for a process
(``kernels_inline.choice`` says what each is). The kernels compute the same as the torch code beside them, to rounding
(tests/test_backend.py, tests/kernels_inline/test_dispatch.py).
"""

from __future__ import annotations

from kernels_inline.choice import BACKENDS, as_on_a_gpu, current, shapes_are_fixed, use
from kernels_inline.dispatch import runs

__all__ = ["BACKENDS", "as_on_a_gpu", "current", "runs", "shapes_are_fixed", "use"]
