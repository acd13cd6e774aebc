"""What is to be done once a GPU is at hand, in sections: tests, sanitizers, benchmarks. ``make gpu`` runs them all.

    PYTHONPATH=. python3 tools/gpu.py [SECTION ...] [--dry]

A section ends within its time limit, so that a machine that is lent for ten minutes a command can take them one by
one (``--list`` names them). Everything is attempted, whatever fails before it. Each section writes one file, with the
records of its commands, as soon as it ends, and summary.json, as it goes, into $OUT, or results/gpu/. Needs a CUDA
build of torch, pytest, and nvcc or g++ with NVRTC; no Jupyter. --dry: tiny sizes on the CPU, CUDA kernels on the
emulator, and no file written, which shows that every command is still one. Exit status: 0, 1 if a command failed, 2
without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SANITIZER = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
TAIL = 2000  # characters of what a command printed that its record keeps


@dataclass(frozen=True)
class Section:
    """what: in a line. limit: seconds, under the eight minutes that a borrowed machine leaves of ten. commands: of a
    run on a GPU (dry False) or of one that only shows that they work."""

    what: str
    limit: int
    commands: Callable[[bool], list[list]]


def tests_with_gpu() -> list[str]:
    """The files whose tests run on a GPU. Others may need packages that a machine with a GPU has not."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in files if re.search(r"mark\.gpu|RUNNERS", path.read_text())]


def _pytest(*arguments: str) -> list:
    # Only these: the emulator's runs of the same tests are for machines without a GPU.
    return [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *arguments]


def _annsoftmax(dry: bool, *arguments: object) -> list:
    return [sys.executable, "-m", "annsoftmax_ref", *arguments, "--device", "cpu" if dry else "cuda"]


def _tests(dry: bool) -> list[list]:
    return [[sys.executable, "-m", "annsoftmax_ref", "doctor"], _pytest(*tests_with_gpu())]


def _sanitizer(dry: bool) -> list[list]:
    """Torch's own memory pool would hide accesses beyond a tensor; the tests' guards are within an allocation."""
    if dry or not Path(SANITIZER).exists():
        print("gpu: compute-sanitizer is not run (it comes with the CUDA toolkit, and needs a GPU)", flush=True)
        return []
    kernels = [name for name in tests_with_gpu() if "test_cuda_" in name]
    options = ["--error-exitcode", "1", "--target-processes", "application-only"]
    return [[SANITIZER, "--tool", tool, *options, *_pytest(*kernels)] for tool in ("memcheck", "racecheck")]


def _ladder(dry: bool) -> list[list]:
    small = ["--kernels", "margin_softmax", "--sizes", "small", "--rounds", 1] if dry else []
    return [_annsoftmax(dry, "bench", "kernels", *small)]


def _steps(dry: bool) -> list[list]:
    """Full softmax beside a million classes; ten million rows and their momentum leave room for one head."""
    from annsoftmax_ref.bench.heads import EXACT, runnable
    from annsoftmax_ref.machine import find_device

    exact = ["full", "full_kernels"] if dry else runnable(EXACT, find_device("auto"))
    ours = ["random", "random_captured", "ann", "ann_captured", "ann_bf16_captured"]
    sizes = [
        (1_000_000, 512, 0.1, [*exact, *ours]),
        (1_000_000, 512, 0.01, [*exact, *ours]),
        (10_000_000, 1024, 0.01, ["full_kernels_bf16"]),  # alone: with another head it would not fit into 80 GB
        (10_000_000, 1024, 0.01, ["ann_bf16_captured"]),
    ]
    if dry:
        sizes = [(classes // 1000, batch // 32, 0.1, heads) for classes, batch, _, heads in sizes]
    return [
        _annsoftmax(dry, "bench", "step", "--classes", classes, "--batch", batch, "--rate", rate, "--heads", *heads,
                    "--dim", 32 if dry else 512, "--rounds", 2 if dry else 15)
        for classes, batch, rate, heads in sizes
    ]  # fmt: skip


def _compare(dry: bool) -> list[list]:
    task = ["pairs:1000", "--groups", 6, "--epochs", 1] if dry else ["pairs:100000"]
    return [_annsoftmax(dry, "compare", "--heads", "full", "random", "ann", "--task", *task)]


def _training(dry: bool) -> list[list]:
    """From where full softmax is cheap to where it is most of a step: the crossover is in between."""
    exact = ["full"] if dry else ["full", "full_compiled", "full_kernels"]
    heads = ["--heads", *exact, "random", "ann", "ann_captured", "--rates", 0.1]
    size = ["--classes", 500, "--batch", 4, "--dim", 32, "--rounds", 1]
    if not dry:
        size = ["--classes", 10_000, 100_000, 1_000_000, "--batch", 512, "--dim", 512]
    return [_annsoftmax(dry, "bench", "training", "--backbone", "resnet50", *heads, *size)]


def _capacity(dry: bool) -> list[list]:
    """The last is one process's part of 300 million classes over 256, with random samples for the others'."""
    sizes = [(3000, "bf16", 0.01, 32, 1), (3000, "fp8_int8", 0.01, 32, 1), (102_400, "fp32", 0.1, 512, 256)]
    if not dry:
        sizes = [
            (1_000_000, "fp32", 0.01, 512, 1),
            (30_000_000, "bf16", 0.01, 512, 1),
            (70_000_000, "fp8_int8", 0.01, 512, 1),
            (300_000_000, "fp32", 0.1, 16_384, 256),
        ]
    return [
        _annsoftmax(dry, "bench", "capacity", "--classes", classes, "--storage", storage, "--rate", rate,
                    "--batch", batch, "--ranks", ranks, "--dim", 32 if dry else 512)
        for classes, storage, rate, batch, ranks in sizes
    ]  # fmt: skip


SECTIONS = {
    "tests": Section("the tests of the kernels and of a head on the GPU, and what doctor says", 420, _tests),
    "sanitizer": Section("memcheck and racecheck of every kernel", 460, _sanitizer),
    "ladder": Section("every version of every kernel beside the ceilings of the device", 460, _ladder),
    "steps": Section("whole head steps at a million and ten million classes", 420, _steps),
    "capacity": Section("30 million classes, 70 in 8 bits, a 256th of 300: memory as planned, a step", 460, _capacity),
    "compare": Section("training at 100,000 classes with each head", 460, _compare),
    "training": Section("whole steps of training with a ResNet-50, to a million classes", 420, _training),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU, and no file written")
    parser.add_argument("--list", action="store_true", help="name the sections and their limits")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"section is {unknown[0]}; it should be one of {', '.join(SECTIONS)}")
    if arguments.list:
        print("\n".join(f"{name:10} {section.limit:4} s  {section.what}" for name, section in SECTIONS.items()))
        return 0
    out = None
    if not arguments.dry:
        reason = _why_no_gpu()
        if reason:
            print(f"gpu: {reason}, so there is nothing to run.", file=sys.stderr)
            return 2
        out = Path(os.environ.get("OUT") or ROOT / "results" / "gpu").resolve()
        out.mkdir(parents=True, exist_ok=True)
    return run_sections(arguments.sections or list(SECTIONS), arguments.dry, out)


def run_sections(names: list[str], dry: bool, out: Path | None) -> int:
    """Run them in turn -> 1 if a command failed, else 0. out: where their files are written; None: nowhere."""
    summary = []
    for name in names:
        section, rows, start = SECTIONS[name], [], time.monotonic()
        print(f"\ngpu: {name}: {section.what}; at most {section.limit} s", flush=True)
        for command in section.commands(dry):
            rows.append(_run(command, section.limit - (time.monotonic() - start)))
            summary.append({"section": name, **{key: rows[-1][key] for key in ("command", "status", "seconds")}})
            _write(out, "summary.json", summary)
        _write(out, f"{name}.json", rows)
    for row in summary:
        verdict = "passed" if row["status"] == 0 else f"FAILED ({row['status']})"
        print(f"gpu: {row['section']:10} {verdict} in {row['seconds']:4.0f} s: {' '.join(row['command'])[:100]}")
    return int(any(row["status"] for row in summary))


def _run(command: list, seconds: float) -> dict:
    """Run it for so many seconds at most -> its words, status, seconds, its record, if it wrote one, and the end of
    what it printed."""
    words = [str(word) for word in command]
    print(f"gpu: {' '.join(words)}", flush=True)
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    if words[0] == SANITIZER:
        variables["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "record.json")
        asked = words + (["--json", str(record)] if "annsoftmax_ref" in words else [])
        try:
            done = subprocess.run(asked, cwd=ROOT, env=variables, timeout=max(1, seconds), stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True)  # fmt: skip
            status, printed = done.returncode, done.stdout
        except subprocess.TimeoutExpired as error:
            status, printed = "out of time", (error.stdout or b"").decode(errors="replace")
        found = json.loads(record.read_text()) if record.exists() else None
    print(printed, flush=True)
    spent = time.monotonic() - start
    return {"command": words, "status": status, "seconds": spent, "record": found, "printed": printed[-TAIL:]}


def _write(out: Path | None, name: str, rows: list[dict]) -> None:
    if out is not None:
        from annsoftmax_ref.experiments import records
        from annsoftmax_ref.machine import find_device

        records.write_record(records.make_record(rows, find_device("auto")), out / name)


def _why_no_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else f"torch {torch.__version__} sees no GPU on this machine"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
