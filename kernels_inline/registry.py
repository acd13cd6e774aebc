"""Every kernel with a launcher: its versions, inputs of any size, what it moves and counts, and what it must return.

Tests, the ladder's benchmark (``annsoftmax bench kernels``) and the documentation read this one list, ``KERNELS``.
A kernel's arguments here are those of its launcher, without the version and without the stream.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from kernels_inline import inputs, rows_rounded
from kernels_inline.flat_ops import flat_map_torch
from kernels_inline.flat_threshold_ops import flat_thresholds_torch
from kernels_inline.measured_kernel import MeasuredKernel
from kernels_inline.select_ops import select_map_torch

CEILINGS = ("popcount_rate", "binary_mma_rate")  # launchers that measure the machine (ceilings.cu)

# ---- The list -------------------------------------------------------------------------------------------------------
# 72: rows begin at multiples of 16 bytes, as the last versions want it, and end within a word of the code.
ROWS_SMALL, ROWS_LARGE = dict(N=40, d=72, A=20), dict(N=1_000_000, d=512, A=250_000)
LISTS_SMALL = dict(nlist=6, used=40, capacity=48, W=2)
LISTS_LARGE = dict(nlist=1024, used=976, capacity=1024, W=8)


# Of a row kernel: the weight's kind and bytes, those of a buffer and of the gradient, whether the momentum is in int8.
STORED = {
    "": (torch.float32, 4, 4, 4, False),
    "_bf16": (torch.bfloat16, 2, 2, 2, False),
    "_e4m3": (torch.float8_e4m3fn, 1, 2, 2, False),
    "_e4m3_int8": (torch.float8_e4m3fn, 1, 1, 2, True),
}


ROW_OPTIMIZERS = {"sgd": ("momentum", "scales"), "adamw": ("average", "square")}  # and a row's buffers


def _row_kernel(optimizer: str, moves: bool, stored: str, of_units: bool = False) -> MeasuredKernel:
    """of_units: by the gradient of rows scaled to length 1, in bfloat16."""
    launcher, buffers = f"row_{optimizer}" + ("" if moves else "_catch_up"), ROW_OPTIMIZERS[optimizer]
    dtype, weight, buffer, gradient, eight = STORED[stored]
    count = 1 if optimizer == "sgd" else 2
    width = 2 * (weight + count * buffer) + moves * (2 if of_units else gradient)
    make = functools.partial(inputs.row_catch_up, count, dtype, eight)
    if moves:
        make = functools.partial(inputs.row_step, count, dtype, eight, of_units)
    changed = tuple(name for name in ("weight", *buffers, "last") if name != "scales" or eight)
    return MeasuredKernel(
        launcher + of_units * "_units" + stored, make, ("codes",) if moves else (), ROWS_SMALL, ROWS_LARGE,
        lambda N, d, A: A * (width * d + 24 + 8 * eight) + (8 * A * -(-d // 64) if moves else 0),
        changed, rearm=inputs.lag_again, index="step_rows",
        expected=functools.partial(_row_twin, launcher, buffers, changed, moves) if stored or of_units else None,
        launcher=launcher,
    )  # fmt: skip


def _gather_kernel(optimizer: str, stored: str) -> MeasuredKernel:
    launcher, buffers = f"row_{optimizer}_gather", ROW_OPTIMIZERS[optimizer]
    dtype, weight, buffer, _, eight = STORED[stored]
    count = 1 if optimizer == "sgd" else 2
    return MeasuredKernel(
        launcher + stored, functools.partial(inputs.row_gather, count, dtype, eight), ("unit", "norms"), ROWS_SMALL,
        ROWS_LARGE, lambda N, d, A: A * ((weight + count * buffer + 2) * d + 20 + 4 * eight), index="gather_rows",
        expected=functools.partial(_gather_twin, launcher, buffers), launcher=launcher,
    )  # fmt: skip


def _gather_twin(launcher: str, buffers: tuple[str, ...], given: dict) -> list[Tensor]:
    """By rows_rounded."""
    gather = getattr(rows_rounded, f"{launcher}_torch")
    held = (given[n] for n in ("weight", *buffers, "last", "ids", "table", "numbers"))
    return list(gather(*held, bool(given["half"])))


def _row_twin(launcher: str, buffers: tuple[str, ...], changed, moves: bool, given: dict) -> list[Tensor]:
    """By rows_rounded."""
    rows = [given[n] for n in ("weight", *buffers, "last")]
    gradient, with_codes = ([given["grad"], given["norms"]], [True]) if moves else ([], [])
    twin = getattr(rows_rounded, f"{launcher}_torch")
    codes = twin(*rows, given["ids"], *gradient, given["table"], given["numbers"], given["seed"], *with_codes)
    return [*(given[n] for n in changed), *([codes] if moves else [])]


def _scan_bits(B, nprobe, used, W, **_):
    return 64 * W * B * nprobe * used


KERNELS = [
    MeasuredKernel(
        "sign_codes",
        inputs.sign_codes,
        ("codes",),
        ROWS_SMALL,
        ROWS_LARGE,
        lambda N, d, A: A * (4 * d + 8 * -(-d // 64) + 8),
    ),
    MeasuredKernel(
        "gather_unit_rows", inputs.gather_unit_rows, ("out",), ROWS_SMALL, ROWS_LARGE, lambda N, d, A: A * (8 * d + 8)
    ),
    MeasuredKernel(
        "row_argmax",
        inputs.row_argmax,
        ("best",),
        dict(n=20, nlist=72),
        dict(n=1 << 18, nlist=1024),
        lambda n, nlist: 4 * n * nlist + 8 * n,
    ),
    MeasuredKernel(
        "list_sums",
        inputs.list_sums,
        ("sums", "counts"),
        dict(n=60, d=72, nlist=5),
        dict(n=1 << 18, d=512, nlist=1024),
        lambda n, d, nlist: 4 * n * d + 8 * n + 4 * nlist * d + 8 * nlist,
    ),
    MeasuredKernel(
        "write_codes",
        inputs.write_codes,
        (),
        LISTS_SMALL | dict(A=50),
        LISTS_LARGE | dict(A=250_000),
        lambda nlist, used, capacity, W, A: A * (24 * W + 28),
        changed=("codes", "slot_codes", "written"),
    ),
    MeasuredKernel(
        "gather_normalise",
        inputs.gather_normalise,
        ("unit", "norms"),
        ROWS_SMALL,
        ROWS_LARGE,
        lambda N, d, A: A * (8 * d + 12),
    ),  # fmt: skip
    MeasuredKernel(
        "normalise_backward",
        inputs.normalise_backward,
        (),
        ROWS_SMALL,
        ROWS_LARGE,
        lambda N, d, A: A * (12 * d + 12),
        changed=("grad",),
    ),  # fmt: skip
    MeasuredKernel(
        "merge_normalise_backward",
        inputs.merge_normalise_backward,
        ("grad",),
        dict(N=40, d=72, G=3, A=16),
        dict(N=1_000_000, d=512, G=8, A=50_000),
        lambda N, d, G, A: G * A * (4 * d + 8) + A * (G + 1) // 2 * (8 * d + 20),
    ),
    MeasuredKernel(
        "margin_softmax",
        inputs.margin_softmax,
        ("losses",),
        dict(b=3, A=300),
        dict(b=512, A=100_000),
        lambda b, A: 12 * b * A + 12 * b,
        changed=("cosine",),
    ),
    MeasuredKernel(
        "logit_sums",
        inputs.logit_sums,
        ("own", "others"),
        dict(b=3, A=300),
        dict(b=512, A=100_000),
        lambda b, A: 4 * b * A + 16 * b,
    ),
    MeasuredKernel(
        "logit_slopes",
        inputs.logit_slopes,
        (),
        dict(b=3, A=300),
        dict(b=512, A=100_000),
        lambda b, A: 8 * b * A + 20 * b,
        changed=("cosine",),
    ),
    MeasuredKernel(
        "ivf_scan",
        inputs.ivf_scan,
        ("ids", "found"),
        LISTS_SMALL | dict(B=4, nprobe=3, k=10),
        LISTS_LARGE | dict(B=512, nprobe=64, k=500),
        lambda B, nprobe, used, W, k, **_: B * (2 * nprobe * used * (8 * W + 8) + 12 * k),
        counted=_scan_bits,
    ),
    MeasuredKernel(
        "rerank",
        inputs.rerank,
        ("ids_out", "cosines_out"),
        dict(B=3, N=200, d=72, k=20),
        dict(B=512, N=1_000_000, d=512, k=1000),
        lambda B, N, d, k: B * k * (4 * d + 28) + 4 * B * d,
        unordered=("ids_out",),
    ),
    MeasuredKernel(
        "flat_thresholds",
        inputs.flat_thresholds,
        ("thresholds",),
        dict(B=3, P=1, W=2, N=300, k=20, stride=2),
        dict(B=512, P=1, W=8, N=1_000_000, k=5000, stride=8),
        lambda B, P, W, N, k, stride: 8 * W * N // stride + 12 * B * (64 * W * (2**P - 1) + 1),
        counted=lambda B, P, W, N, k, stride: 64 * B * P * W * N // stride,
        expected=lambda a: [
            flat_thresholds_torch(a["queries"], a["codes"], 64 * a["words"], a["k"], a["stride"], a["first"])
        ],
    ),
    MeasuredKernel(
        "flat_map",
        inputs.flat_map,
        ("map",),
        dict(B=9, P=2, W=2, N=300),
        dict(B=512, P=1, W=8, N=1_000_000),
        lambda B, P, W, N: (8 * W + 1) * N,
        counted=lambda B, P, W, N: 64 * B * P * W * N,
        expected=lambda a: [
            flat_map_torch(a["queries"], a["thresholds"], a["codes"], a["starts"], 64 * a["words"], a["shift"])
        ],
    ),
    MeasuredKernel(
        "union_active",
        inputs.union_active,
        ("classes", "targets"),
        dict(N=900, b=4, k=12, count=100),
        dict(N=1_000_000, b=512, k=1000, count=100_000),
        lambda N, b, k, count: 16 * N + 8 * (b * k + 2 * count) + 8 * (k + 2 * count) + 8 * count,
    ),
    MeasuredKernel(
        "select_map",
        inputs.select_map,
        ("classes", "targets"),
        dict(N=900, b=4, count=100),
        dict(N=10_000_000, b=512, count=1_000_000),
        lambda N, b, count: 7 * N // 2 + 8 * count,
        expected=lambda a: list(select_map_torch(a["map"], a["labels"], a["count"])),
    ),
    *(
        kernel
        for stored in STORED
        for optimizer in ROW_OPTIMIZERS
        if optimizer == "sgd" or "int8" not in stored
        for kernel in (
            _row_kernel(optimizer, True, stored),
            _row_kernel(optimizer, True, stored, of_units=True),
            _row_kernel(optimizer, False, stored),
            _gather_kernel(optimizer, stored),
        )
    ),
]


def get(name: str) -> MeasuredKernel:
    found = {kernel.name: kernel for kernel in KERNELS}
    if name not in found:
        raise ValueError(f"kernel is {name!r}; it should be one of {', '.join(found)}")
    return found[name]
