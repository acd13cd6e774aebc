"""Every kernel with a launcher: its versions, inputs of any size, what it moves and counts, and what it must return.

Tests, the ladder's benchmark (``annsoftmax bench kernels``) and the documentation read this one list, ``KERNELS``.
A kernel's arguments here are those of its launcher, without the version and without the stream.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels_inline import build, inputs, rows_bf16
from kernels_inline.cuda import sources
from kernels_inline.flat_ops import flat_map_torch
from kernels_inline.flat_threshold_ops import flat_thresholds_torch
from kernels_inline.select_ops import select_map_torch

POISON = 0xCD
CEILINGS = ("popcount_rate", "binary_mma_rate")  # launchers that measure the machine (ceilings.cu)
# How far a number may be from the expected one: sums of up to 512 float32 numbers in another order, and exponentials.
RELATIVE, ABSOLUTE = 1e-4, 1e-5


@dataclass(frozen=True)
class Kernel:
    """name: of the launcher. index: of its kernels in the index of its file, if another one.

    make(size, device) -> the arguments. results: places of the arguments that are only written. changed: of those that
    are read and written. small and large: sizes, for the emulator and to fill a GPU. moved(size): bytes read and
    written by an ideal kernel. counted(size): bits of two codes that are compared. expected(arguments) -> the results
    and the changed ones, in the order of their places; None: the C++ function of the same name gives them.
    rearm(arguments): before each launch after the first, where a second one would do less.
    unordered: places that are not compared, since equal scores in another rounding change their order.
    """

    name: str
    make: Callable[[dict, torch.device], list]
    results: tuple[int, ...]
    small: dict
    large: dict
    moved: Callable[..., int]
    changed: tuple[int, ...] = ()
    counted: Callable[..., int] | None = None
    expected: Callable[[list], list[Tensor]] | None = None
    rearm: Callable[[list], None] | None = None
    index: str = ""
    unordered: tuple[int, ...] = ()

    @property
    def file(self):
        return sources.launcher_files()[self.name]

    def versions(self) -> dict[int, str]:
        """{number: what it does}, from the index at the head of its file."""
        found = re.findall(rf"^//\s+{self.index or self.name}_(\d+)\s+(\S.*)$", self.file.read_text(), re.MULTILINE)
        return {int(number): text for number, text in found}

    def inputs(self, size: dict, device: torch.device | str = "cpu") -> list:
        """The arguments, the results poisoned."""
        arguments = self.make(size, torch.device(device))
        for place in self.results:
            arguments[place].view(torch.uint8).fill_(POISON)
        return arguments

    def outputs(self, arguments: list) -> list[Tensor]:
        return [arguments[place] for place in sorted((*self.results, *self.changed))]

    def expected_outputs(self, arguments: list) -> list[Tensor]:
        """What a launch with these arguments must leave behind; the arguments stay as they are."""
        copies = [a.cpu().clone() if isinstance(a, Tensor) else a for a in arguments]
        if self.expected is not None:
            return self.expected(copies)
        build.CppLibrary(build.load()).call(self.name, *copies)
        return self.outputs(copies)

    def wrong(self, arguments: list, expected: list[Tensor]) -> str | None:
        """One sentence on the first output that is not as expected, or None."""
        for place, ours, theirs in zip(
            sorted((*self.results, *self.changed)), self.outputs(arguments), expected, strict=True
        ):
            if place in self.unordered:
                continue
            ours, exact = ours.cpu(), not theirs.is_floating_point()
            same = torch.equal(ours, theirs) if exact else torch.allclose(ours, theirs, RELATIVE, ABSOLUTE)
            if not same:
                return f"{self.name}: argument {place} is not as expected at {list(_first_difference(ours, theirs))}"
        return None


def _first_difference(a: Tensor, b: Tensor):
    differing = (a != b) if not a.is_floating_point() else ~torch.isclose(a, b, RELATIVE, ABSOLUTE)
    return differing.nonzero()[0].tolist()


# ---- The list -------------------------------------------------------------------------------------------------------
# 72: rows begin at multiples of 16 bytes, as the last versions want it, and end within a word of the code.
ROWS_SMALL, ROWS_LARGE = dict(N=40, d=72, A=20), dict(N=1_000_000, d=512, A=250_000)
LISTS_SMALL = dict(nlist=6, used=40, capacity=48, W=2)
LISTS_LARGE = dict(nlist=1024, used=976, capacity=1024, W=8)


def _row_kernel(optimizer: str, buffers: int, moves: bool, half: bool) -> Kernel:
    name = f"row_{optimizer}" + ("" if moves else "_catch_up") + ("_bf16" if half else "")
    dtype, each = (torch.bfloat16, 2) if half else (torch.float32, 4)
    changed, width = tuple(range(2 + buffers)), 2 * (1 + buffers) * each + (4 if moves else 0)
    make = functools.partial(inputs.row_step if moves else inputs.row_catch_up, buffers, dtype)
    codes = len(make(ROWS_SMALL, torch.device("cpu"))) - 1
    return Kernel(
        name, make, (codes,) if moves else (), ROWS_SMALL, ROWS_LARGE,
        lambda N, d, A: A * (width * d + 24) + (8 * A * -(-d // 64) if moves else 0),
        changed, rearm=functools.partial(inputs.lag_again, buffers), index="step_rows",
        expected=functools.partial(_row_twin, name, buffers, moves) if half else None,
    )  # fmt: skip


def _row_twin(name: str, buffers: int, moves: bool, arguments: list) -> list[Tensor]:
    *arrays, last, _, _, ids, _ = arguments[: 6 + buffers]
    grad, (table, _, step, *hyper) = arguments[6 + buffers : 6 + buffers + moves], arguments[6 + buffers + moves :]
    if moves:
        hyper[-1] = True  # with codes
    codes = getattr(rows_bf16, f"{name}_")(*arrays, last, ids, *grad, table, step, *hyper)
    return [*arrays, last, codes] if moves else [*arrays, last]


def _scan_bits(B, nprobe, used, W, **_):
    return 64 * W * B * nprobe * used


KERNELS = [
    Kernel(
        "sign_codes", inputs.sign_codes, (9,), ROWS_SMALL, ROWS_LARGE, lambda N, d, A: A * (4 * d + 8 * -(-d // 64) + 8)
    ),
    Kernel("gather_unit_rows", inputs.gather_unit_rows, (8,), ROWS_SMALL, ROWS_LARGE, lambda N, d, A: A * (8 * d + 8)),
    Kernel(
        "row_argmax",
        inputs.row_argmax,
        (3,),
        dict(n=20, nlist=72),
        dict(n=1 << 18, nlist=1024),
        lambda n, nlist: 4 * n * nlist + 8 * n,
    ),
    Kernel(
        "list_sums",
        inputs.list_sums,
        (5, 6),
        dict(n=60, d=72, nlist=5),
        dict(n=1 << 18, d=512, nlist=1024),
        lambda n, d, nlist: 4 * n * d + 8 * n + 4 * nlist * d + 8 * nlist,
    ),
    Kernel(
        "write_codes",
        inputs.write_codes,
        (),
        LISTS_SMALL | dict(A=50),
        LISTS_LARGE | dict(A=250_000),
        lambda nlist, used, capacity, W, A: A * (24 * W + 28),
        changed=(0, 1, 2),
    ),
    Kernel(
        "gather_normalise", inputs.gather_normalise, (6, 7), ROWS_SMALL, ROWS_LARGE, lambda N, d, A: A * (8 * d + 12)
    ),
    Kernel(
        "normalise_backward",
        inputs.normalise_backward,
        (),
        ROWS_SMALL,
        ROWS_LARGE,
        lambda N, d, A: A * (12 * d + 12),
        changed=(0,),
    ),
    Kernel("add_rows", inputs.add_rows, (), ROWS_SMALL, ROWS_LARGE, lambda N, d, A: A * (12 * d + 8), changed=(0,)),
    Kernel(
        "margin_softmax",
        inputs.margin_softmax,
        (9,),
        dict(b=3, A=300),
        dict(b=512, A=100_000),
        lambda b, A: 12 * b * A + 12 * b,
        changed=(0,),
    ),
    Kernel(
        "ivf_scan",
        inputs.ivf_scan,
        (15, 16),
        LISTS_SMALL | dict(B=4, nprobe=3, k=10),
        LISTS_LARGE | dict(B=512, nprobe=64, k=500),
        lambda B, nprobe, used, W, k, **_: B * (2 * nprobe * used * (8 * W + 8) + 12 * k),
        counted=_scan_bits,
    ),
    Kernel(
        "rerank",
        inputs.rerank,
        (6, 7),
        dict(B=3, N=200, d=72, k=20),
        dict(B=512, N=1_000_000, d=512, k=1000),
        lambda B, N, d, k: B * k * (4 * d + 28) + 4 * B * d,
        unordered=(6,),
    ),
    Kernel(
        "flat_thresholds",
        inputs.flat_thresholds,
        (10,),
        dict(B=3, P=1, W=2, N=300, k=20, stride=2),
        dict(B=512, P=1, W=8, N=1_000_000, k=5000, stride=8),
        lambda B, P, W, N, k, stride: 8 * W * N // stride + 12 * B * (64 * W * (2**P - 1) + 1),
        counted=lambda B, P, W, N, k, stride: 64 * B * P * W * N // stride,
        expected=lambda a: [flat_thresholds_torch(a[0], a[1], 64 * a[4], a[7], a[8], a[9])],
    ),
    Kernel(
        "flat_map",
        inputs.flat_map,
        (11,),
        dict(B=9, P=2, W=2, N=300),
        dict(B=512, P=1, W=8, N=1_000_000),
        lambda B, P, W, N: (8 * W + 1) * N,
        counted=lambda B, P, W, N: 64 * B * P * W * N,
        expected=lambda a: [flat_map_torch(a[0], a[1], a[2], a[3], 64 * a[7], a[10])],
    ),
    Kernel(
        "union_active",
        inputs.union_active,
        (8, 9),
        dict(N=900, b=4, k=12, count=100),
        dict(N=1_000_000, b=512, k=1000, count=100_000),
        lambda N, b, k, count: 16 * N + 8 * (b * k + 2 * count) + 8 * (k + 2 * count) + 8 * count,
    ),
    Kernel(
        "select_map",
        inputs.select_map,
        (5, 6),
        dict(N=900, b=4, count=100),
        dict(N=10_000_000, b=512, count=1_000_000),
        lambda N, b, count: 7 * N // 2 + 8 * count,
        expected=lambda a: list(select_map_torch(a[0], a[1], a[3])),
    ),
    *(
        _row_kernel(optimizer, buffers, moves, half)
        for half in (False, True)
        for optimizer, buffers in (("sgd", 1), ("adamw", 2))
        for moves in (True, False)
    ),
]


def get(name: str) -> Kernel:
    found = {kernel.name: kernel for kernel in KERNELS}
    if name not in found:
        raise ValueError(f"kernel is {name!r}; it should be one of {', '.join(found)}")
    return found[name]
