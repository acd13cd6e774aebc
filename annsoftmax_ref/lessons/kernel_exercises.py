"""Exercises whose answer is a CUDA kernel: a specification in NumPy, and a checker that counts what the answer moves.

    SCALE = KernelExercise(
        arguments=lambda rng, n: {"x": rng.random(n, np.float32), "out": np.empty(n, np.float32), "n": n},
        specification=lambda x, out, n: {"out": 2 * x},
        sizes=[{"n": 1}, {"n": 33}, {"n": 4096}],
        grid=lambda n: (-(-n // 256), 256),
        least=lambda n: (4 * n, 4 * n),
        model="__global__ void scale(const float* x, float* out, int n) { ... }",
        hints=["Each thread has a number of its own: blockIdx.x * blockDim.x + threadIdx.x."],
    )
    SCALE.check(scale)  # "correct; 1.0 times the least possible reads; the model solution has 1.0", and more

After GPU Puzzles (S. Rush, 2022). The kernel runs on the emulator in both orders of the threads, for every size, on
outputs full of 0xCD; an access outside an array ends the launch with a sentence. Counts are of the last size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from annsoftmax_ref.lessons.kernel_arguments import Grid, KernelError, Placed
from annsoftmax_ref.lessons.kernel_cells import cuda_kernel
from annsoftmax_ref.lessons.kernel_launches import Kernel
from annsoftmax_ref.lessons.kernel_traffic import SECTOR, Traffic
from kernels_inline.cuda import emulator

POISON = 0xCD


@dataclass(frozen=True)
class Grade:
    """What ``check`` found. reads, writes: bytes, sectors: transfers, each in times of the least possible."""

    correct: bool
    message: str
    reads: float = float("nan")
    writes: float = float("nan")
    sectors: float = float("nan")

    def __bool__(self) -> bool:
        return self.correct


@dataclass(frozen=True)
class KernelExercise:
    """arguments(rng, **size): the kernel's arguments by their names, in its order, the outputs among them.
    specification(**arguments): the outputs by their names, each an array.
    sizes: what it is tried on, the adversarial first, the one to count last.
    grid(**size): (blocks, threads) or (blocks, threads, bytes of dynamic shared memory).
    least(**size): bytes that any solution must read and write.
    model: the text of a solution, whose counts stand beside the reader's.
    in_place: outputs whose first contents are an input.
    """

    arguments: Callable[..., dict]
    specification: Callable[..., dict[str, np.ndarray]]
    sizes: Sequence[dict]
    grid: Callable[..., tuple]
    least: Callable[..., tuple[int, int]]
    model: str
    hints: Sequence[str] = ()
    in_place: Sequence[str] = ()
    tolerance: float = 1e-5
    seed: int = 0

    def check(self, kernel: Kernel) -> Grade:
        """Try the kernel, print what came of it, and return that. It never raises for what a kernel does wrong."""
        grade = self._graded(kernel)
        print(grade.message)
        if not grade and self.hints:
            print(f"hints: .hint(1) to .hint({len(self.hints)})")
        return grade

    def hint(self, number: int) -> None:
        if not 1 <= number <= len(self.hints):
            raise ValueError(f"hint {number} is not there; the exercise has {len(self.hints)} hints, from 1")
        print(self.hints[number - 1])

    def _graded(self, kernel: Kernel) -> Grade:
        for size in self.sizes:
            for order in emulator.SCHEDULES:
                if wrong := self._try(kernel, size, order):
                    named = ", ".join(f"{name} = {value}" for name, value in size.items())
                    return Grade(False, f"not yet. With {named}, threads in {order} order:\n  {wrong}")
        ours, model = self._ratios(kernel), self._ratios(cuda_kernel(self.model))
        rows = [f"correct; {ours[0]:.1f} times the least possible reads; the model solution has {model[0]:.1f}"]
        for name, mine, theirs in zip(("writes", "sectors"), ours[1:], model[1:], strict=True):
            rows.append(f"         {mine:.1f} times the least possible {name}; the model solution has {theirs:.1f}")
        return Grade(True, "\n".join(rows), *ours)

    def _try(self, kernel: Kernel, size: dict, order: str) -> str:
        """What is wrong with the results for one size, in words; "" if nothing is."""
        given, expected = self._case(size)
        try:
            with emulator.schedule(order):
                kernel.emulate(Grid.of(self.grid(**size)), list(given.values()))
        except KernelError as error:
            return str(error)
        for name, right in expected.items():
            wrong = ~self._equal(given[name], np.asarray(right).reshape(given[name].shape))
            if wrong.any():
                at = tuple(map(int, np.argwhere(wrong)[0]))
                place = ", ".join(map(str, at))
                should = f"{name}[{place}] should be {_short(np.reshape(right, wrong.shape)[at])}"
                writer = self._who_wrote(kernel, size, order, name, at)
                return (
                    f"{should}, and is {_short(given[name][at])}: {writer}"
                    if writer
                    else f"{should}; no thread wrote it"
                )
        return ""

    def _case(self, size: dict) -> tuple[dict, dict[str, np.ndarray]]:
        """The arguments, with poison in the outputs, and the right outputs."""
        given = self.arguments(np.random.default_rng(self.seed), **size)
        copies = {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in given.items()}
        expected = self.specification(**copies)
        for name in expected.keys() - set(self.in_place):
            given[name].reshape(-1).view(np.uint8)[:] = POISON
        return given, expected

    def _equal(self, came: np.ndarray, right: np.ndarray) -> np.ndarray:
        if came.dtype.kind == "f":
            return np.isclose(came, right, rtol=self.tolerance, atol=self.tolerance, equal_nan=True)
        return came == right

    def _who_wrote(self, kernel: Kernel, size: dict, order: str, name: str, at: tuple[int, ...]) -> str:
        """Which thread wrote this element last, in a launch like the one that went wrong; "" if none did."""
        given, _ = self._case(size)
        with emulator.schedule(order):
            memory, uses, _ = kernel.emulate(Grid.of(self.grid(**size)), list(given.values()), recording=True)
        address = _address(memory, kernel, given, name, at)
        of_it = (uses["address"] <= address) & (address < uses["address"] + uses["bytes"])
        stores = uses[of_it & (uses["store"] == 1) & (uses["shared"] == 0)]
        if not len(stores):
            return ""
        last = stores[-1]
        return f"thread {last['thread']} of block {last['block']} wrote it, in {kernel.place_of(last['code'])}"

    def _ratios(self, kernel: Kernel) -> tuple[float, float, float]:
        """Bytes read and written, and sectors moved, for the last size, each by the least possible."""
        size = self.sizes[-1]
        given, _ = self._case(size)
        traffic: Traffic = kernel.traffic[self.grid(**size)](*given.values())
        reads, writes = self.least(**size)
        least = max(1, reads), max(1, writes), -(-reads // SECTOR) + -(-writes // SECTOR)
        moved = traffic.global_load_bytes, traffic.global_store_bytes, traffic.global_sectors
        return tuple(ours / fewest for ours, fewest in zip(moved, least, strict=True))


def _address(memory: Placed, kernel: Kernel, given: dict, name: str, at: tuple[int, ...]) -> int:
    """Of an element of the argument that the exercise calls ``name``: arguments are known by their places."""
    own = kernel.parameters[list(given).index(name)].name
    array = memory.arrays[own]
    return array.data_ptr() + int(np.ravel_multi_index(at, given[name].shape)) * array.element_size()


def _short(value) -> str:
    return f"{value:.6g}" if isinstance(value, np.floating | float) else str(value)
