"""``annsoftmax bench kernels``: every version of every CUDA kernel, naive to fast, beside what the machine can do.

On a GPU: whether its results are right, from poisoned outputs, and then its time at a size that fills the chip, as
bytes and as compared bits a second beside the ceilings of the same device in the same run. Everywhere: how often it
reads and writes global and shared memory at a small size, counted by the emulator, which needs no GPU. (g++ takes a
load of 16 bytes apart, so requests are not fewer there than with loads of 4 bytes; sectors are right.)
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch

from annsoftmax_ref.experiments.reports import grid
from kernels_inline import dispatch, registry
from kernels_inline.cuda import emulator
from kernels_inline.measured_kernel import MeasuredKernel

PATIENCE = 2000.0  # milliseconds that the rounds of one version may take together, once there are three of them
TIMES = ("ms_median", "ms_min", "ms_max", "gb_per_s", "share_of_copy", "bits_per_s", "share_of_popcount")
ON_GPU = (*TIMES, "share_of_binary_mma")  # columns that are null without a GPU


def bench_kernels(
    device: torch.device,
    most: dict,
    names: list[str] | None = None,
    rounds: int = 20,
    sizes: str = "large",
    on_row: Callable[[dict], None] | None = None,
) -> list[dict]:
    """A row for each version of each kernel. most: the device's ``ceilings``; empty without a GPU.

    A row has "kernel", "version", "what" (its line in the index), "wrong" (a sentence, or None), "size", "bytes" and
    "bits" (of that size), the columns ON_GPU, "counted_size" and the emulator's counts (emulator.COUNTS) for it.
    A version that is wrong is not timed. sizes: of the timing, "large" or "small".
    Raises ValueError for an unknown name, and BuildError where kernels cannot be built.
    """
    chosen = [registry.get(name) for name in names] if names else registry.KERNELS
    rows = []
    for kernel in chosen:
        expected = kernel.expected_outputs(kernel.inputs(kernel.small))
        wrong = {version: _wrong(kernel, version, expected, device) for version in kernel.versions()}
        times = _times(kernel, [v for v, no in wrong.items() if no is None], device, rounds, getattr(kernel, sizes))
        for version, what in kernel.versions().items():
            rows.append(
                _facts(kernel, version, what, getattr(kernel, sizes))
                | {"wrong": wrong[version]}
                | _rates(kernel, getattr(kernel, sizes), times.get(version), most)
                | {"counted_size": kernel.small, **_counts(kernel, version)}
            )
            if on_row is not None:
                on_row(rows[-1])
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the next kernel's inputs have other sizes
    return rows


def _facts(kernel: MeasuredKernel, version: int, what: str, size: dict) -> dict:
    bits = kernel.counted(**size) if kernel.counted else None
    name = {"kernel": kernel.name, "version": version, "what": what, "file": kernel.file.name}
    return {**name, "size": size, "bytes": kernel.moved(**size), "bits": bits}


def _wrong(kernel: MeasuredKernel, version: int, expected, device: torch.device) -> str | None:
    arguments = kernel.inputs(kernel.small)
    if device.type == "cuda":
        arguments = [a.to(device) if isinstance(a, torch.Tensor) else a for a in arguments]
        code = dispatch.library_for(device).call(f"{kernel.launcher}_v", version, *arguments)
    else:
        code = emulator.call(emulator.load(kernel.file), f"{kernel.launcher}_v", version, *arguments, None)
    return f"{kernel.name}: the launcher returned {code}" if code else kernel.wrong(arguments, expected)


def _counts(kernel: MeasuredKernel, version: int) -> dict[str, int]:
    library = emulator.load(kernel.file, "counting")
    emulator.counts(library)  # what came before is not this version's
    emulator.call(library, f"{kernel.launcher}_v", version, *kernel.inputs(kernel.small), None)
    return emulator.counts(library)


def _times(kernel: MeasuredKernel, versions: list[int], device: torch.device, rounds: int, size: dict) -> dict:
    """{version: [milliseconds of each round]}, the versions in turn; empty without a GPU."""
    if device.type != "cuda" or not versions:
        return {}
    library, arguments = dispatch.library_for(device), kernel.inputs(size, device)

    def once(version: int) -> float:
        if kernel.rearm is not None:
            kernel.rearm(arguments)
        return _milliseconds(lambda: library.call(f"{kernel.launcher}_v", version, *arguments))

    for version in versions:
        once(version)  # warms up
    times: dict[int, list[float]] = {version: [] for version in versions}
    for _ in range(rounds):
        for version, spent in times.items():
            if len(spent) < 3 or sum(spent) < PATIENCE:
                spent.append(once(version))
    return times


def _milliseconds(call: Callable[[], object]) -> float:
    """The time between an event before and one after, on the present stream."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def _rates(kernel: MeasuredKernel, size: dict, times: list[float] | None, most: dict) -> dict:
    if not times:
        return dict.fromkeys(ON_GPU)
    ms = median(times)
    rate = kernel.moved(**size) / ms / 1e6
    bits = kernel.counted(**size) / ms * 1e3 if kernel.counted else None
    return {
        "ms_median": ms,
        "ms_min": min(times),
        "ms_max": max(times),
        "gb_per_s": rate,
        "share_of_copy": rate / most["copy_gb_per_s"],
        "bits_per_s": bits,
        "share_of_popcount": bits / most["popcount_bits_per_s"] if bits else None,
        "share_of_binary_mma": bits / most["binary_mma_bits_per_s"] if bits and most["binary_mma_bits_per_s"] else None,
    }


def ceilings(device: torch.device, rounds: int = 20, copied: int = 1 << 30, loops: int = 20_000) -> dict:
    """What the device does at most: bytes copied (read plus written), bits counted by popcounts and by binary tensor
    cores (None where it has none), and bfloat16 matrix products, each a second, as the median over rounds."""
    library, blocks = dispatch.library_for(device), 8 * torch.cuda.get_device_properties(device).multi_processor_count
    source = torch.ones(copied, dtype=torch.uint8, device=device)
    target, sums = torch.empty_like(source), torch.empty(256 * blocks, dtype=torch.int32, device=device)
    square = torch.randn(8192, 8192, device=device).to(torch.bfloat16)
    threads = 256 * blocks
    works = {
        "copy_gb_per_s": (lambda: target.copy_(source), 2 * copied / 1e9),
        "popcount_bits_per_s": (lambda: library.call("popcount_rate", blocks, loops, sums), threads * loops * 8 * 32),
        "binary_mma_bits_per_s": (
            lambda: library.call("binary_mma_rate", blocks, loops, sums),
            threads // 32 * loops * 4 * 16 * 8 * 256,
        ),
        "bf16_matmul_tflop_per_s": (lambda: square @ square, 2 * 8192**3 / 1e12),
    }
    found: dict[str, float | None] = {}
    for name, (call, amount) in works.items():
        if name == "binary_mma_bits_per_s" and call():
            found[name] = None
            continue
        for _ in range(3):
            call()
        found[name] = amount / median(_milliseconds(call) for _ in range(rounds)) * 1e3
    return found


def table(rows: list[dict], most: dict) -> str:
    """Rows as a Markdown table, with what a version needs a GPU for left out where there is none."""
    timed = bool(most)
    gpu = ["ms", "GB/s", "of copy", "Tbit/s", "of popcount", "of tensor cores"]
    titles = ["kernel", "what", *(gpu if timed else []), "global KB", "sectors", "shared KB", "wavefronts"]
    lines = []
    for r in rows:
        cells = [f"{r['kernel']}_{r['version']}", r["wrong"] or r["what"]]
        if timed:
            cells += [
                _cell(r["ms_median"], "{:.3f}"),
                _cell(r["gb_per_s"], "{:.0f}"),
                _cell(r["share_of_copy"], "{:.0%}"),
            ]
            cells += [_cell(r["bits_per_s"] and r["bits_per_s"] / 1e12, "{:.1f}")]
            cells += [_cell(r[name], "{:.0%}") for name in ("share_of_popcount", "share_of_binary_mma")]
        cells += [f"{(r['global_load_bytes'] + r['global_store_bytes']) / 1e3:.1f}"]
        cells += [f"{r['global_sectors']:,}"]
        cells += [f"{(r['shared_load_bytes'] + r['shared_store_bytes']) / 1e3:.1f}", f"{r['shared_wavefronts']:,}"]
        lines.append(cells)
    if not timed:
        return grid(titles, lines)
    ceilings = ", ".join(f"{name} {_cell(value, '{:.3g}')}" for name, value in most.items())
    return f"{grid(titles, lines)}\n\nCeilings: {ceilings}."


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
