"""A kernel of a cell: compiled, launched, counted, and what happened told in terms of the cell's lines."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from annsoftmax_ref.lessons import kernel_faults, kernel_text
from annsoftmax_ref.lessons.kernel_arguments import Grid, KernelError, Placed, checked
from annsoftmax_ref.lessons.kernel_traffic import SECTOR, Request, Traffic
from kernels_inline import compiler
from kernels_inline.cuda import emulator, nvcc, sources, watching

LANES = 32
_INCLUDE_LAUNCH = re.compile(r'^[ \t]*#include "launch\.h".*$', re.MULTILINE)


@dataclass(frozen=True)
class Helpers:
    """A cell of functions and structs for kernels in other cells. text: its first line stands for the magic's."""

    name: str
    text: str


@dataclass(frozen=True)
class Kernel:
    """One ``__global__`` function of a cell."""

    name: str
    text: str
    template_arguments: tuple[str, ...] = ()
    helpers: tuple[Helpers, ...] = ()

    def of(self, *template_arguments: str) -> Kernel:
        """The template's kernel for these arguments: ``scale.of("float", "4")``."""
        return Kernel(self.name, self.text, tuple(map(str, template_arguments)), self.helpers)

    def __getitem__(self, sizes) -> Callable[..., None]:
        """kernel[blocks, threads](*arguments): a launch."""
        return functools.partial(self._launch, Grid.of(sizes))

    @property
    def traffic(self) -> Launches:
        """kernel.traffic[blocks, threads](*arguments) -> Traffic of the whole launch."""
        return Launches(self._traffic)

    @property
    def accesses(self) -> Launches:
        """kernel.accesses[blocks, threads](*arguments, block=0, warp=0) -> the Requests of one warp, in their order."""
        return Launches(self._accesses)

    @property
    def check(self) -> Launches:
        """kernel.check[blocks, threads](*arguments) -> Verdict: a fault and its line, or that none was found."""
        return Launches(lambda grid, *arguments: kernel_faults.check(self, grid, arguments))

    @property
    def milliseconds(self) -> Launches:
        """kernel.milliseconds[blocks, threads](*arguments) -> the median of 20 launches, on a GPU."""
        return Launches(self._milliseconds)

    def __repr__(self) -> str:
        taken = ", ".join(f"{kind} {name}" for kind, name in self.signature.parameters)
        arguments = f"<{', '.join(self.template_arguments)}>" if self.template_arguments else ""
        return f"{self.name}{arguments}({taken})"

    # ---- what it is

    @functools.cached_property
    def signature(self) -> kernel_text.Signature:
        return kernel_text.signatures(self.text)[self.name]

    @functools.cached_property
    def parameters(self) -> tuple[kernel_text.Parameter, ...]:
        wanted = self.signature.template
        if len(wanted) != len(self.template_arguments):
            raise KernelError(
                f"{self.name} is a template of <{', '.join(wanted)}> and was given {len(self.template_arguments)} "
                f"arguments: name them in the cell's first line, as in %%cuda_kernel {self.name}<...>"
            )
        return kernel_text.parameters(self.signature, self.template_arguments, "\n".join(map(_text, self._cells)))

    @property
    def _cells(self) -> list[Helpers | Kernel]:
        return [*self.helpers, self]

    @functools.cached_property
    def full_text(self) -> str:
        """What is compiled: the helpers, the cell, the launcher. Messages name lines by NAME.cu."""
        cells = [f'#line 1 "{cell.name}.cu"\n{_INCLUDE_LAUNCH.sub("", cell.text)}\n' for cell in self._cells]
        return "".join(cells) + kernel_text.launcher(self.name, self.template_arguments, self.parameters)

    def compile(self) -> None:
        """Build it for the emulator, if that is not done. Raises KernelError."""
        _ = self._emulated

    @functools.cached_property
    def _emulated(self):
        return self._built(lambda: emulator.load(self.full_text, "counting"))

    def _built(self, build: Callable):
        try:
            return build()
        except compiler.BuildError as error:
            raise KernelError(self.compile_error(error.log) or str(error)) from None

    # ---- launches

    def _launch(self, grid: Grid, *arguments) -> None:
        if any(isinstance(value, torch.Tensor) and value.is_cuda for value in _flat(arguments)):
            self._launch_on_gpu(grid, arguments)
        else:
            self.emulate(grid, arguments)

    def emulate(self, grid: Grid, arguments: Sequence, recording: bool = False, counting: bool = False):
        """One launch on the emulator -> (Placed, uses or None, Traffic or None). Raises KernelError."""
        memory, library = Placed(*checked(self.name, self.parameters, arguments)), self._emulated
        emulator.counts(library)
        with watching.only(memory.tensors, library, recording, counting):
            try:
                emulator.call(library, kernel_text.LAUNCHER, *grid.numbers, *memory.values, None)
            except RuntimeError as error:
                raise KernelError(self._what_went_wrong(str(error), memory)) from None
            finally:
                memory.copy_back()
            uses = watching.uses(library) if recording else None
        return memory, uses, Traffic(**emulator.counts(library)) if counting else None

    def _launch_on_gpu(self, grid: Grid, arguments: Sequence) -> None:
        leaves, values = checked(self.name, self.parameters, arguments)
        place = next(value.device for value in values if isinstance(value, torch.Tensor))
        wrong = [leaf.name for leaf, x in zip(leaves, values, strict=True) if _elsewhere(x, place)]
        if wrong:
            raise ValueError(f"{wrong[0]} is not on {place}, where other tensors of this launch are")
        library = self._gpu_library(torch.cuda.get_device_capability(place))
        with torch.cuda.device(place):
            stream = torch.cuda.current_stream().cuda_stream
            function = compiler.function_of(library, kernel_text.LAUNCHER)
            code = function(*map(compiler.c_value, [*grid.numbers, *values]), compiler.ctypes.c_void_p(stream))
        if code < 0:
            raise KernelError(f"{self.name}: CUDA error {-code}")

    @functools.cache  # noqa: B019 a kernel lives as long as its notebook
    def _gpu_library(self, capability: tuple[int, int]):
        header = compiler.inlined(sources.FOLDER / "launch.h", set())
        text = f"{header}\nnamespace cell {{\n{self.full_text}\n}}\n{nvcc.ERROR_TEXT}"
        return self._built(lambda: nvcc.library_of("kernel_cell", text, capability))

    def _traffic(self, grid: Grid, *arguments) -> Traffic:
        return self.emulate(grid, arguments, counting=True)[2]

    def _accesses(self, grid: Grid, *arguments, block: int = 0, warp: int = 0) -> list[Request]:
        memory, uses, _ = self.emulate(grid, arguments, recording=True)
        return self.requests(uses[(uses["block"] == block) & (uses["thread"] // LANES == warp)], memory)

    def _milliseconds(self, grid: Grid, *arguments, times: int = 20) -> float:
        if not any(isinstance(value, torch.Tensor) and value.is_cuda for value in _flat(arguments)):
            raise ValueError(
                f"{self.name}.milliseconds takes tensors on a GPU: the emulator counts, and its times say nothing"
            )
        taken = []
        for _ in range(3 + times):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            self._launch_on_gpu(grid, arguments)
            end.record()
            end.synchronize()
            taken.append(begin.elapsed_time(end))
        return float(np.median(taken[3:]))

    # ---- what happened, in terms of the cell

    def requests(self, uses: np.ndarray, memory: Placed) -> list[Request]:
        """The k-th time that a lane comes to an instruction belongs to the k-th request of its warp there."""
        lines, times, grouped = watching.lines(self._emulated, uses["code"]), {}, {}
        for use in uses:
            lane = int(use["thread"]) % LANES
            time = times[use["code"], lane] = times.get((use["code"], lane), -1) + 1
            grouped.setdefault((use["code"], time), {})[lane] = use
        base = int(uses["address"][uses["shared"] > 0].min(initial=2**62))
        return [self._request(of_lane, memory, lines, base) for of_lane in grouped.values()]

    def _request(self, of_lane: dict[int, np.void], memory: Placed, lines, shared_base: int) -> Request:
        first = next(iter(of_lane.values()))
        addresses, width = {lane: int(use["address"]) for lane, use in of_lane.items()}, int(first["bytes"])
        name, begin, item = ("shared", shared_base, 4) if first["shared"] else memory.array_at(int(first["address"]))
        item = min(item, width)  # a word of 64 bits may be used in pieces of 32
        touched = {
            a // SECTOR - begin // SECTOR for x in addresses.values() for a in range(x, x + width, min(width, SECTOR))
        }
        return Request(
            store=bool(first["store"]),
            array=name,
            line=self.line_of(lines[int(first["code"])]),
            item=item,
            each=max(1, width // item),
            elements={lane: (address - begin) // item for lane, address in sorted(addresses.items())},
            sectors=() if first["shared"] else tuple(sorted(touched)),
        )

    def line_of(self, places: Sequence[tuple[str, int]]) -> int:
        """Of (file, line) of inlined functions and their callers: the line in this cell; 0 if there is none."""
        return next((line for file, line in places if file == f"{self.name}.cu"), 0)

    def place_of(self, code: int) -> str:
        """The line of an access, as ``quoted``."""
        return self.quoted(self.line_of(watching.lines(self._emulated, [code])[int(code)]))

    def quoted(self, line: int) -> str:
        """'line 5, `x[i] = 0;`', for messages."""
        lines = self.text.splitlines()
        return f"line {line}, `{lines[line - 1].strip()}`" if 0 < line <= len(lines) else "a function that it calls"

    def _what_went_wrong(self, message: str, memory: Placed) -> str:
        fault = watching.fault(self._emulated)
        if fault is None:
            return self.in_words(message)
        verb = "writes" if fault["store"] else "reads"
        what = memory.outside(int(fault["address"]), int(fault["bytes"]))
        return f"{self.place_of(fault['code'])}: thread {fault['thread']} of block {fault['block']} {verb} {what}"

    def in_words(self, message: str) -> str:
        """A message of the emulator, with lines of the cell in place of file names."""
        message = re.sub(rf"^{kernel_text.LAUNCHER}: (kernel \S+?, |kernel \(.*?\), )?", "", message)
        places = [(cell, line) for cell in self._cells for line in re.findall(rf"\b{cell.name}\.cu:(\d+)", message)]
        for cell, line in places:
            here = self.quoted(int(line)) if cell is self else f"line {line} of {cell.name}"
            message = message.replace(f"{cell.name}.cu:{line}", here)
        return message

    def compile_error(self, log: str) -> str | None:
        """The compiler's first error, in one sentence with the line of the cell; None if the log has none."""
        errors = re.compile(
            r"^(?:.*/)?([\w.]+)(?::(\d+)(?::\d+)?:|\((\d+)\):)\s*(?:fatal )?error:? (.*)$", re.MULTILINE
        )
        found = errors.search(log)
        if found is None:
            return None
        file, line, other_line, what = found.groups()
        for cell in reversed(self._cells):
            # A mistake that shows in a header: the line of the cell that asked for it is told further down.
            asked = re.search(rf"\b{cell.name}\.cu[:(](\d+)", log)
            at = (line or other_line) if file == f"{cell.name}.cu" else asked and asked.group(1)
            if at:
                where = self.quoted(int(at)) if cell is self else f"line {at} of {cell.name}"
                return f"{where}: {what}"
        return what


@dataclass(frozen=True)
class Launches:
    """``run`` for a grid that is given in brackets: launches[blocks, threads](*arguments)."""

    run: Callable

    def __getitem__(self, sizes) -> Callable:
        return functools.partial(self.run, Grid.of(sizes))


def _text(cell: Helpers | Kernel) -> str:
    return cell.text


def _flat(arguments: Sequence) -> list:
    return [one for value in arguments for one in (_flat(value) if isinstance(value, tuple | list) else [value])]


def _elsewhere(value, place: torch.device) -> bool:
    return isinstance(value, torch.Tensor) and value.device != place
