"""The package's own kernels, launch by launch: what each moves, counted without a GPU.

with counted_launches() as launches:
    step(x, labels)            # runs the CUDA kernels on the emulator
for launch in launches:
    print(launch.launcher, launch.moved, launch.once)

for version in counted_versions("row_sgd", N=64, d=512, A=32):
    print(version.name, version.what, version.launch.moved)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import numpy as np
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.lessons.kernel_traffic import SECTOR, Traffic
from kernels_inline import registry
from kernels_inline.cuda import emulator, library, sources, watching


@dataclass(frozen=True)
class Launch:
    """One call of a launcher. Counts are exact, and they are no times."""

    launcher: str
    traffic: Traffic
    once: int  # bytes of the sectors touched, each counted once for reading and once for writing

    @property
    def moved(self) -> int:
        """Bytes of all sectors that the requests asked for: one that is read twice counts twice."""
        return SECTOR * self.traffic.global_sectors


@dataclass(frozen=True)
class Version:
    """A kernel's version, what its index says of it, whether its results are right, and its launch."""

    name: str
    what: str
    right: bool
    launch: Launch


def counted(launcher: str, *arguments: Tensor | int | float | None) -> Launch:
    """Call a launcher of ``kernels_inline/cuda`` on the emulator, without the stream."""
    kernels = emulator.load(sources.launcher_files()[launcher], "counting")
    emulator.counts(kernels)  # what came before is not this launch's
    with watching.only(None, kernels, recording=True, counting=True):
        emulator.call(kernels, launcher, *arguments, None)
        uses = watching.uses(kernels)
    uses = uses[uses["shared"] == 0]
    first, last = uses["address"] // SECTOR, (uses["address"] + uses["bytes"] - 1) // SECTOR
    touched = np.concatenate([2 * first + uses["store"], 2 * last + uses["store"]])
    return Launch(launcher, Traffic(**emulator.counts(kernels)), SECTOR * len(np.unique(touched)))


@contextlib.contextmanager
def counted_launches() -> Iterator[list[Launch]]:
    """In the block the package's CUDA kernels run on the emulator; -> the launches, as they come."""
    launches: list[Launch] = []

    class Counted(library.Emulated):
        def call(self, name: str, *arguments) -> int:
            launches.append(counted(name, *arguments))
            return 0

    with backend.use("emulator"), mock.patch.object(library, "Emulated", Counted):
        yield launches


def counted_versions(name: str, **size: int) -> list[Version]:
    """Every version of a kernel of ``kernels_inline/registry.py``, at a size that its inputs take."""
    kernel = registry.get(name)
    expected = kernel.expected_outputs(kernel.inputs(size))
    found = []
    for version, what in kernel.versions().items():
        arguments = kernel.inputs(size)
        launch = counted(f"{kernel.launcher}_v", version, *arguments)
        right = kernel.wrong(arguments, expected) is None
        found.append(Version(f"{kernel.index or kernel.launcher}_{version}", what, right, launch))
    return found
