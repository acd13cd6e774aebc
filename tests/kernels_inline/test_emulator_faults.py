"""Planted faults are found by the emulator: missing barriers, divergence, wrong masks, accesses outside, races."""

import pytest
import torch
from cuda_runners import PLANTED, POISON_INT
from kernel_examples import integers

from kernels_inline.cuda import emulator


@pytest.fixture(scope="module")
def faulty():
    return emulator.load(PLANTED / "faulty.cu")


def faulty_lines() -> list[str]:
    return (PLANTED / "faulty.cu").read_text().splitlines()


def line(text: str) -> int:
    """The number of the one line of faulty.cu that holds this text."""
    found = [i for i, content in enumerate(faulty_lines(), 1) if text in content]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    "kernel, read, right",
    [
        ("no_barrier", range(63, -1, -1), []),
        ("no_warp_barrier", range(31, -1, -1), []),
        ("before", [0, *range(63)], ["forward"]),  # so both orders are needed
        ("after", [*range(1, 64), 63], ["reverse"]),
    ],
)
def test_a_missing_barrier_shows_under_one_of_the_orders(faulty, kernel, read, right):
    x, found = integers(len(read)), []
    for order in emulator.SCHEDULES:
        out = torch.zeros(len(read), dtype=torch.int32)
        with emulator.schedule(order):
            emulator.call(faulty, kernel, x, out, None)
        if torch.equal(out, x[list(read)]):
            found.append(order)
    assert found == right


def test_memory_that_nobody_has_written_holds_poison(faulty, sound, order):
    out = torch.zeros(2, 64, dtype=torch.int32)
    emulator.call(faulty, "unwritten", out, None)
    written = torch.tensor([1] * 16 + [POISON_INT] * 16, dtype=torch.int32)
    assert torch.equal(out[0], written.repeat(2))
    assert (out[1] == POISON_INT).all()  # the second block does not see what the first has written
    sums = torch.zeros(32, dtype=torch.int32)
    emulator.call(sound, "fresh_scratch", sums, None)
    assert sums[0] == POISON_INT


def test_divergent_barriers_are_told_with_lines_and_threads(faulty, order):
    first = line("if (threadIdx.x < 32)") + 1
    with pytest.raises(RuntimeError) as error:
        emulator.call(faulty, "divergent", None)
    assert str(error.value) == (
        f"divergent: kernel divergent_1, divergent barrier: no thread of block (0, 0, 0) can go on: "
        f"threads 0 to 31 wait at __syncthreads in faulty.cu:{first}, "
        f"threads 32 to 63 wait at __syncthreads in faulty.cu:{first + 2}"
    )
    with pytest.raises(RuntimeError, match=r"threads 5 to 5 wait at __syncthreads .* wait at __syncwarp\(0xffffffff\)"):
        emulator.call(faulty, "barrier_and_warp", None)


@pytest.mark.parametrize(
    "kernel, message",
    [
        ("not_in_mask", r"thread \(\d+, 0, 0\) of block \(0, 0, 0\) is not in the mask of its __shfl_sync"),
        ("inactive", r"reads lane 1\d by __shfl_sync, in which that lane takes no part"),
        ("ended", r"thread \(8, 0, 0\) .* reads lane 9 by __shfl_xor_sync"),
        ("too_many_threads", r"no GPU can launch a grid of \(1, 1, 1\) blocks of \(1025, 1, 1\) threads"),
        ("no_blocks", r"no GPU can launch a grid of \(0, 1, 1\)"),
    ],
)
def test_mistakes_end_in_one_sentence_and_the_next_launch_works(faulty, order, kernel, message):
    out = torch.zeros(32, dtype=torch.int32)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=message) as error:
            emulator.call(faulty, kernel, out, None)
        assert "\n" not in str(error.value)
    if kernel not in ("too_many_threads", "no_blocks"):
        shuffle = next(i for i in range(line(f"void {kernel}_1("), 99) if "__shfl" in faulty_lines()[i - 1])
        assert f"faulty.cu:{shuffle}: " in str(error.value)
    out = torch.zeros(128, dtype=torch.int32)
    emulator.call(faulty, "unwritten", out, None)
    assert (out[:16] == 1).all()


SANITIZED = """
import torch
from pathlib import Path
from kernels_inline.cuda import emulator
sound, faulty = (emulator.load(Path({folder!r}) / name, {variant!r}) for name in ("sound.cu", "faulty.cu"))
x, out, count = (torch.arange(n, dtype=torch.int32) for n in (64, 64, 3))
for order in emulator.SCHEDULES:
    with emulator.schedule(order):
        emulator.call(sound, "block_sum", x, 64, out, 2, 64, None)
        emulator.call(sound, "scan", x, 64, out, None)
        emulator.call(sound, "compact", x, 45, out, count, None)
        try:
            emulator.call(faulty, "divergent", None)
        except RuntimeError:
            print("told")
print("sound", flush=True)
{fault}
print("not found")
"""


def sanitized(variant, fault):
    """The report on a fault, after sound kernels have run without one."""
    code = SANITIZED.format(folder=str(PLANTED), variant=variant, fault=fault)
    run = emulator.run_sanitized(variant, code)
    assert run.stdout.splitlines()[:3] == ["told", "told", "sound"], run.stdout + run.stderr
    return run


@pytest.mark.parametrize("kernel, report", [("static", "global-buffer-overflow"), ("dynamic", "heap-buffer-overflow")])
def test_address_sanitizer_sees_the_end_of_shared_memory(kernel, report):
    run = sanitized("asan", f'emulator.call(faulty, "outside_{kernel}", 64, out, None)')
    assert run.returncode != 0 and "not found" not in run.stdout
    assert report in run.stderr
    assert f"faulty.cu:{line('// i is size' if kernel == 'static' else 'out[threadIdx.x] = values[i];')}" in run.stderr


def test_thread_sanitizer_names_both_lines_of_a_race():
    calls = [f'emulator.call(faulty, "{name}", x, out, None)' for name in ("no_barrier", "no_warp_barrier")]
    run = sanitized("races", "\n".join(calls))
    assert run.returncode != 0
    reports = run.stderr.split("WARNING: ThreadSanitizer: data race")[1:]
    for kernel in ("no_barrier_1", "no_warp_barrier_1"):  # a race of the lanes of one warp too
        report = next(report for report in reports if kernel in report)
        write = line(f"void {kernel}") + 2
        read = next(i for i in range(write, 99) if "out[threadIdx.x] = parts" in faulty_lines()[i - 1])
        assert f"faulty.cu:{write}" in report and f"faulty.cu:{read}" in report
        assert "write of size 4" in report.lower() and "read of size 4" in report.lower()
    assert not any("sound.cu" in report for report in reports)
