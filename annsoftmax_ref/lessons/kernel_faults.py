"""Faults of a kernel that a single launch may not show: looked for on the emulator, told in one sentence with the line.

    outside      an access outside an array, of shared memory too: AddressSanitizer
    race         two threads use the same memory, one writes, and no barrier is between them: ThreadSanitizer
    order        results that differ between the two orders of the threads, as sums by a float atomic do

A kernel is here what ``kernel_launches`` calls one. The sanitizers have to be loaded before python. So each runs in a
process of its own, for about a second.
"""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from annsoftmax_ref.lessons.kernel_arguments import Grid, KernelError, checked
from annsoftmax_ref.lessons.kernel_text import LAUNCHER
from kernels_inline.cuda import emulator

# Plain python: torch, and all that it loads, takes seconds under a sanitizer. Each array has a block of malloc's for
# itself, so that AddressSanitizer sees its end.
CHILD = """
import ctypes, pickle
path, launcher, values = pickle.load(open({file!r}, "rb"))
library, system = ctypes.CDLL(path), ctypes.CDLL(None)
for reverse in (0, 1):
    library.emulator_schedule(ctypes.c_int64(reverse))
    given, arrays = [], {{}}
    for value in values:
        if isinstance(value, tuple):
            place, content = value
            if place not in arrays:
                arrays[place] = ctypes.c_void_p()
                system.posix_memalign(ctypes.byref(arrays[place]), ctypes.c_size_t(256), ctypes.c_size_t(len(content)))
                ctypes.memmove(arrays[place], content, len(content))
            given.append(arrays[place])
        elif isinstance(value, float):
            given.append(ctypes.c_double(value))
        else:
            given.append(ctypes.c_void_p() if value is None else ctypes.c_int64(value))
    getattr(library, launcher)(*given)
print("done")
"""
_IN_SHARED = re.compile(r"__shared__|DYNAMIC_SHARED")


@dataclass(frozen=True)
class Verdict:
    """fault: "", or what kind it is: "outside", "race", "order", "launch". line: of the cell; 0: unknown."""

    fault: str
    line: int
    sentence: str

    def __bool__(self) -> bool:
        """Whether nothing was found."""
        return not self.fault

    def __repr__(self) -> str:
        return self.sentence


def check(kernel, grid: Grid, arguments: Sequence) -> Verdict:
    """The first fault found. The tensors given stay as they are."""
    try:
        results = {order: _results(kernel, grid, arguments, order) for order in emulator.SCHEDULES}
    except KernelError as error:
        outside = re.search(r", which has \d+$|outside of its arguments|null pointer", str(error))
        return _verdict(kernel, "outside" if outside else "launch", str(error))
    for look in (_outside, _race):
        if (found := look(kernel, grid, arguments)) is not None:
            return found
    if (found := _order(kernel, results)) is not None:
        return found
    return Verdict("", 0, "no fault found: in bounds, no race, and the same result in both orders of the threads")


def _results(kernel, grid: Grid, arguments: Sequence, order: str) -> dict[str, Tensor]:
    """The arrays after a launch in this order, by their names."""
    with emulator.schedule(order):
        memory, _, _ = kernel.emulate(grid, _copied(arguments))
    return memory.arrays


def _outside(kernel, grid: Grid, arguments: Sequence) -> Verdict | None:
    if not _IN_SHARED.search(kernel.full_text):  # accesses to the arguments are looked at in every launch
        return None
    report = _report(kernel, grid, arguments, "asan")
    found = re.search(
        r"ERROR: AddressSanitizer: ([\w-]+).*?\n(READ|WRITE) of size (\d+)(.*?)(?:\n\n|$)", report, re.DOTALL
    )
    if found is None:
        return None
    kind, verb, size, stack = found.groups()
    memory = "shared memory" if kind == "global-buffer-overflow" or "dynamic" in stack else "an array"
    where = kernel.quoted(_lines(kernel, stack)[0])
    return _verdict(kernel, "outside", f"{where}: {verb.lower()}s {size} bytes outside of {memory}")


def _race(kernel, grid: Grid, arguments: Sequence) -> Verdict | None:
    report = _report(kernel, grid, arguments, "races")
    found = re.search(r"WARNING: ThreadSanitizer: data race.*?\n(.*?)\n\n(.*?)\n\n", report, re.DOTALL)
    if found is None:
        return None
    one, other = (_lines(kernel, stack)[0] for stack in found.groups())
    first, second = sorted((one, other))
    if first == second:
        return _verdict(
            kernel, "race", f"{kernel.quoted(first)}: a race: two threads do this to the same memory at once"
        )
    text = f"a race of {kernel.quoted(first)}, and {kernel.quoted(second)}: a barrier is missing between them"
    return _verdict(kernel, "race", text)


def _order(kernel, results: dict[str, dict[str, Tensor]]) -> Verdict | None:
    forward, reverse = (results[order] for order in emulator.SCHEDULES)
    for name in forward:
        different = (forward[name] != reverse[name]) & ~(forward[name].isnan() & reverse[name].isnan())
        if different.any():
            at = tuple(different.nonzero()[0].tolist())
            values = f"{forward[name][at].item():.9g} or {reverse[name][at].item():.9g}"
            atomic = _line_with(kernel, r"\batomic(Add|Exch|CAS)\b")
            floating = forward[name].is_floating_point() and atomic
            why = f"{kernel.quoted(atomic)}: atomics add floats in any order, so" if floating else "the order matters:"
            which = f"element {at[0] if len(at) == 1 else at} of {name}"
            return Verdict(
                "order", atomic if floating else 0, f"{why} {which} is {values}, by the order of the threads"
            )
    return None


def _report(kernel, grid: Grid, arguments: Sequence, variant: str) -> str:
    """What the sanitizer says about a launch in each order of the threads."""
    _, values = checked(kernel.name, kernel.parameters, arguments)
    packed = [*grid.numbers, *(_bytes(value) if isinstance(value, Tensor) else value for value in values), None]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "launch")
        file.write_bytes(pickle.dumps((str(emulator.built(kernel.full_text, variant)), LAUNCHER, packed)))
        run = emulator.run_sanitized(variant, CHILD.format(file=str(file)))
    if not re.search(r"ERROR: AddressSanitizer: |ThreadSanitizer: data race", run.stderr) and "done" not in run.stdout:
        last = (run.stderr.strip() or "no message").splitlines()[-1]
        raise KernelError(f"the look for faults ({variant}) did not come to its end, and says nothing: {last}")
    return run.stderr


def _bytes(tensor: Tensor) -> tuple[int, bytes]:
    """Where a tensor lies, by which the same one is known, and what is in it."""
    return tensor.data_ptr(), tensor.flatten().view(torch.uint8).numpy().tobytes()


def _verdict(kernel, fault: str, sentence: str) -> Verdict:
    line = re.search(r"\bline (\d+)", sentence)
    return Verdict(fault, int(line.group(1)) if line else 0, sentence)


def _lines(kernel, stack: str) -> list[int]:
    """Lines of the cell in a stack, the innermost first; [0] if there are none."""
    return [int(line) for line in re.findall(rf"\b{kernel.name}\.cu:(\d+)", stack)] or [0]


def _line_with(kernel, pattern: str) -> int:
    return next((i for i, line in enumerate(kernel.text.splitlines(), 1) if re.search(pattern, line)), 0)


def _copied(arguments: Sequence) -> list:
    copies = {}  # a tensor given twice stays one

    def copy(value):
        if isinstance(value, tuple | list):
            return [copy(one) for one in value]
        if hasattr(value, "copy") or isinstance(value, Tensor):
            return copies.setdefault(id(value), value.clone() if isinstance(value, Tensor) else value.copy())
        return value

    return [copy(value) for value in arguments]
