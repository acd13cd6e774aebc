"""What is to be done once a GPU is at hand: tests, sanitizers, benchmarks. ``make gpu`` runs it.

    PYTHONPATH=. python3 tools/gpu.py [--quick]

Everything is attempted, whatever fails before it; the records and a summary are written into $OUT, or results/gpu/.
Needs a CUDA build of torch, pytest, and nvcc or g++ with NVRTC; no Jupyter. --quick: without sanitizers and the large
step benchmark. Exit status: 0, 1 if a part failed, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
KERNEL_TESTS = sorted((ROOT / "tests" / "kernels_inline").glob("test_cuda_*.py"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="no sanitizers, no large step benchmark")
    quick = parser.parse_args().quick
    sys.path.insert(0, str(ROOT))
    import torch

    if not torch.cuda.is_available():
        print(
            f"gpu: torch {torch.__version__} sees no GPU on this machine, so there is nothing to run.", file=sys.stderr
        )
        return 2
    out = Path(os.environ.get("OUT") or ROOT / "results" / "gpu").resolve()
    out.mkdir(parents=True, exist_ok=True)
    print(f"gpu: {torch.cuda.get_device_name()}, torch {torch.__version__}; writing into {out}", flush=True)
    from annsoftmax_ref.experiments import records

    rows = [_run(name, command) for name, command in _parts(out, quick)]
    records.write_record(records.make_record(rows, "cuda"), out / "summary.json")
    for row in rows:
        print(f"gpu: {row['part']:24} {'passed' if row['status'] == 0 else 'FAILED'} in {row['seconds']:.0f} s")
    return int(any(row["status"] for row in rows))


def _parts(out: Path, quick: bool) -> list[tuple[str, list]]:
    python, bench = sys.executable, [sys.executable, "-m", "annsoftmax_ref", "bench"]
    # Only these: the emulator's runs of the same tests are for machines without a GPU.
    pytest = [python, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    parts = [
        ("doctor", [python, "-m", "annsoftmax_ref", "doctor", "--json", out / "doctor.json"]),
        ("tests", [*pytest, "tests", f"--junitxml={out / 'tests.xml'}"]),
        ("kernels", [*bench, "kernels", "--device", "cuda", "--json", out / "kernels.json"]),
        ("compile", [*bench, "compile", "--json", out / "compile.json"]),
        ("step 100k", [*bench, "step", "--device", "cuda", "--json", out / "step_100k.json"]),
    ]
    large = ["--classes", "1000000", "--dim", "512", "--batch", "512", "--rate", "0.1"]
    if not quick:
        parts.append(("step 1m", [*bench, "step", "--device", "cuda", *large, "--json", out / "step_1m.json"]))
        sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if Path(sanitizer).exists():
            # Torch's own memory pool would hide accesses beyond a tensor; the tests' guards are within an allocation.
            for tool in ("memcheck", "racecheck"):
                log = out / f"{tool}.log"
                command = [sanitizer, "--tool", tool, "--error-exitcode", "1", "--log-file", log]
                parts.append((tool, [*command, "--target-processes", "application-only", *pytest, *KERNEL_TESTS]))
        else:
            print("gpu: there is no compute-sanitizer (it comes with the CUDA toolkit), so memory is not checked")
    return parts


def _run(part: str, command: list) -> dict:
    words = [str(word) for word in command]
    print(f"\ngpu: {part}: {' '.join(words)}", flush=True)
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    if part not in ("memcheck", "racecheck"):
        del variables["PYTORCH_NO_CUDA_MEMORY_CACHING"]
    start = time.perf_counter()
    status = subprocess.run(words, cwd=ROOT, env=variables).returncode
    return {"part": part, "status": status, "seconds": time.perf_counter() - start, "command": words}


if __name__ == "__main__":
    sys.exit(main())
