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

    make(size, device) -> the arguments. results: the launcher's parameters that are only written. changed: those that
    are read and written. small and large: sizes, for the emulator and to fill a GPU. moved(size): bytes read and
    written by an ideal kernel. counted(size): bits of two codes that are compared. expected({parameter: argument}) ->
    the results and the changed ones, in the launcher's order; None: the C++ function of the same name gives them.
    rearm(arguments): before each launch after the first, where a second one would do less.
    unordered: parameters that are not compared, since equal scores in another rounding change their order.
    """

    name: str
    make: Callable[[dict, torch.device], list]
    results: tuple[str, ...]
    small: dict
    large: dict
    moved: Callable[..., int]
    changed: tuple[str, ...] = ()
    counted: Callable[..., int] | None = None
    expected: Callable[[dict], list[Tensor]] | None = None
    rearm: Callable[[list], None] | None = None
    index: str = ""
    unordered: tuple[str, ...] = ()

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
        for name in self.results:
            arguments[self.parameters.index(name)].view(torch.uint8).fill_(POISON)
        return arguments

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the launcher's parameters, without the stream."""
        return _parameters(self.name)

    def outputs(self, arguments: list) -> dict[str, Tensor]:
        """The results and the changed arguments, in the launcher's order."""
        named = zip(self.parameters, arguments, strict=True)
        return {name: argument for name, argument in named if name in (*self.results, *self.changed)}

    def expected_outputs(self, arguments: list) -> list[Tensor]:
        """What a launch with these arguments must leave behind; the arguments stay as they are."""
        copies = [a.cpu().clone() if isinstance(a, Tensor) else a for a in arguments]
        if self.expected is not None:
            return self.expected(dict(zip(self.parameters, copies, strict=True)))
        build.CppLibrary(build.load()).call(self.name, *copies)
        return list(self.outputs(copies).values())

    def wrong(self, arguments: list, expected: list[Tensor]) -> str | None:
        """One sentence on the first output that is not as expected, or None."""
        for (name, ours), theirs in zip(self.outputs(arguments).items(), expected, strict=True):
            if name in self.unordered:
                continue
            ours, exact = ours.cpu(), not theirs.is_floating_point()
            same = torch.equal(ours, theirs) if exact else torch.allclose(ours, theirs, RELATIVE, ABSOLUTE)
            if not same:
                return f"{self.name}: {name} is not as expected at {_first_difference(ours, theirs)}"
        return None


@functools.cache
def _parameters(launcher: str) -> tuple[str, ...]:
    *parameters, _ = sources.launchers(sources.launcher_files()[launcher].read_text())[launcher]
    return tuple(re.search(r"\w+$", parameter).group() for parameter in parameters)


def _first_difference(a: Tensor, b: Tensor):
    differing = (a != b) if not a.is_floating_point() else ~torch.isclose(a, b, RELATIVE, ABSOLUTE)
    return differing.nonzero()[0].tolist()


# ---- The list -------------------------------------------------------------------------------------------------------
# 72: rows begin at multiples of 16 bytes, as the last versions want it, and end within a word of the code.
ROWS_SMALL, ROWS_LARGE = dict(N=40, d=72, A=20), dict(N=1_000_000, d=512, A=250_000)
LISTS_SMALL = dict(nlist=6, used=40, capacity=48, W=2)
LISTS_LARGE = dict(nlist=1024, used=976, capacity=1024, W=8)


def _row_kernel(optimizer: str, buffers: tuple[str, ...], moves: bool, half: bool) -> Kernel:
    name = f"row_{optimizer}" + ("" if moves else "_catch_up") + ("_bf16" if half else "")
    dtype, each = (torch.bfloat16, 2) if half else (torch.float32, 4)
    width = (2 * (1 + len(buffers)) + moves) * each
    make = inputs.row_step if moves else inputs.row_catch_up
    return Kernel(
        name, functools.partial(make, len(buffers), dtype), ("codes",) if moves else (), ROWS_SMALL, ROWS_LARGE,
        lambda N, d, A: A * (width * d + 24) + (8 * A * -(-d // 64) if moves else 0),
        ("weight", *buffers, "last"), rearm=functools.partial(inputs.lag_again, len(buffers)), index="step_rows",
        expected=functools.partial(_row_twin, name, buffers, moves) if half else None,
    )  # fmt: skip


def _row_twin(name: str, buffers: tuple[str, ...], moves: bool, given: dict) -> list[Tensor]:
    """By rows_bf16, which takes the same hyper-parameters in the same order, those after the step."""
    changed = [given[n] for n in ("weight", *buffers, "last")]
    names = list(given)
    hyper = [given[n] for n in names[names.index("step") + 1 :] if n != "codes"]
    gradient, with_codes = ([given["grad"]], [True]) if moves else ([], [])
    twin = getattr(rows_bf16, f"{name}_")
    codes = twin(*changed, given["ids"], *gradient, given["table"], given["step"], *hyper, *with_codes)
    return [*changed, codes] if moves else changed


def _scan_bits(B, nprobe, used, W, **_):
    return 64 * W * B * nprobe * used


KERNELS = [
    Kernel(
        "sign_codes",
        inputs.sign_codes,
        ("codes",),
        ROWS_SMALL,
        ROWS_LARGE,
        lambda N, d, A: A * (4 * d + 8 * -(-d // 64) + 8),
    ),
    Kernel(
        "gather_unit_rows", inputs.gather_unit_rows, ("out",), ROWS_SMALL, ROWS_LARGE, lambda N, d, A: A * (8 * d + 8)
    ),
    Kernel(
        "row_argmax",
        inputs.row_argmax,
        ("best",),
        dict(n=20, nlist=72),
        dict(n=1 << 18, nlist=1024),
        lambda n, nlist: 4 * n * nlist + 8 * n,
    ),
    Kernel(
        "list_sums",
        inputs.list_sums,
        ("sums", "counts"),
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
        changed=("codes", "slot_codes", "written"),
    ),
    Kernel(
        "gather_normalise",
        inputs.gather_normalise,
        ("unit", "norms"),
        ROWS_SMALL,
        ROWS_LARGE,
        lambda N, d, A: A * (8 * d + 12),
    ),
    Kernel(
        "normalise_backward",
        inputs.normalise_backward,
        (),
        ROWS_SMALL,
        ROWS_LARGE,
        lambda N, d, A: A * (12 * d + 12),
        changed=("grad",),
    ),
    Kernel(
        "merge_normalise_backward",
        inputs.merge_normalise_backward,
        ("grad",),
        dict(N=40, d=72, G=3, A=16),
        dict(N=1_000_000, d=512, G=8, A=50_000),
        lambda N, d, G, A: G * A * (4 * d + 8) + A * (G + 1) // 2 * (8 * d + 20),
    ),
    Kernel(
        "margin_softmax",
        inputs.margin_softmax,
        ("losses",),
        dict(b=3, A=300),
        dict(b=512, A=100_000),
        lambda b, A: 12 * b * A + 12 * b,
        changed=("cosine",),
    ),
    Kernel(
        "ivf_scan",
        inputs.ivf_scan,
        ("ids", "found"),
        LISTS_SMALL | dict(B=4, nprobe=3, k=10),
        LISTS_LARGE | dict(B=512, nprobe=64, k=500),
        lambda B, nprobe, used, W, k, **_: B * (2 * nprobe * used * (8 * W + 8) + 12 * k),
        counted=_scan_bits,
    ),
    Kernel(
        "rerank",
        inputs.rerank,
        ("ids_out", "cosines_out"),
        dict(B=3, N=200, d=72, k=20),
        dict(B=512, N=1_000_000, d=512, k=1000),
        lambda B, N, d, k: B * k * (4 * d + 28) + 4 * B * d,
        unordered=("ids_out",),
    ),
    Kernel(
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
    Kernel(
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
    Kernel(
        "union_active",
        inputs.union_active,
        ("classes", "targets"),
        dict(N=900, b=4, k=12, count=100),
        dict(N=1_000_000, b=512, k=1000, count=100_000),
        lambda N, b, k, count: 16 * N + 8 * (b * k + 2 * count) + 8 * (k + 2 * count) + 8 * count,
    ),
    Kernel(
        "select_map",
        inputs.select_map,
        ("classes", "targets"),
        dict(N=900, b=4, count=100),
        dict(N=10_000_000, b=512, count=1_000_000),
        lambda N, b, count: 7 * N // 2 + 8 * count,
        expected=lambda a: list(select_map_torch(a["map"], a["labels"], a["count"])),
    ),
    *(
        _row_kernel(optimizer, buffers, moves, half)
        for half in (False, True)
        for optimizer, buffers in (("sgd", ("momentum",)), ("adamw", ("average", "square")))
        for moves in (True, False)
    ),
]


def get(name: str) -> Kernel:
    found = {kernel.name: kernel for kernel in KERNELS}
    if name not in found:
        raise ValueError(f"kernel is {name!r}; it should be one of {', '.join(found)}")
    return found[name]
