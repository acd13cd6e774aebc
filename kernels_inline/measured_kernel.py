"""MeasuredKernel: what tests and benchmarks know of a kernel with a launcher. ``registry`` has the list of them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels_inline import build
from kernels_inline.cuda import sources

POISON = 0xCD
# How far a number may be from the expected one: sums of up to 512 float32 numbers in another order, and exponentials.
RELATIVE, ABSOLUTE = 1e-4, 1e-5


@dataclass(frozen=True)
class MeasuredKernel:
    """name: of the kernel. launcher: its own, if another one. index: of its kernels in the index of its file, likewise.

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
    launcher: str = ""

    def __post_init__(self):
        object.__setattr__(self, "launcher", self.launcher or self.name)

    @property
    def file(self):
        return sources.launcher_files()[self.launcher]

    def versions(self) -> dict[int, str]:
        """{number: what it does}, from the index at the head of its file."""
        found = re.findall(rf"^//\s+{self.index or self.launcher}_(\d+)\s+(\S.*)$", self.file.read_text(), re.MULTILINE)
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
        return _parameters(self.launcher)

    def outputs(self, arguments: list) -> dict[str, Tensor]:
        """The results and the changed arguments, in the launcher's order."""
        named = zip(self.parameters, arguments, strict=True)
        return {name: argument for name, argument in named if name in (*self.results, *self.changed)}

    def expected_outputs(self, arguments: list) -> list[Tensor]:
        """What a launch with these arguments must leave behind; the arguments stay as they are."""
        copies = [a.cpu().clone() if isinstance(a, Tensor) else a for a in arguments]
        if self.expected is not None:
            return self.expected(dict(zip(self.parameters, copies, strict=True)))
        build.CppLibrary(build.load()).call(self.launcher, *copies)
        return list(self.outputs(copies).values())

    def wrong(self, arguments: list, expected: list[Tensor]) -> str | None:
        """One sentence on the first output that is not as expected, or None."""
        for (name, ours), theirs in zip(self.outputs(arguments).items(), expected, strict=True):
            if name in self.unordered:
                continue
            ours, exact = ours.cpu(), not theirs.is_floating_point()
            if ours.dtype == torch.float8_e4m3fn:  # torch compares none of these
                ours, theirs, exact = ours.view(torch.uint8), theirs.view(torch.uint8), True
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
