"""Runs the kernels' tests on kernels built with AddressSanitizer and UndefinedBehaviorSanitizer.

    python tools/sanitize.py [arguments for pytest]

An access outside a tensor, an overflow, a wrong shift or a misaligned pointer in a kernel ends the run with a report.
Every instruction set that the tests compare is built and checked. The sanitizers come with g++ and clang++; their
run-time libraries have to be loaded before python, hence LD_PRELOAD (so: Linux only). Leaks are not looked for,
as python itself never frees everything.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kernels_inline import build, compiler

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests" / "kernels_inline"
FLAGS = "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
LIBRARIES = ("libasan.so", "libubsan.so", "libstdc++.so")  # the last so that the first finds its exceptions
# A mistake on purpose: if this one is not reported, no report means nothing.
CANARY = '#include <cstdint>\nextern "C" int64_t canary(int64_t n) { int64_t* x = new int64_t[n]; return x[n]; }'


def environment() -> dict[str, str]:
    """The variables under which python runs with sanitized kernels. Raises BuildError where that is impossible."""
    return {
        **os.environ,
        "LD_PRELOAD": compiler.preload(LIBRARIES),
        "PYTHONPATH": str(ROOT),
        "ANNSOFTMAX_EXTRA_FLAGS": FLAGS,
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_NUM_THREADS": "2",
    }


def check_that_mistakes_are_found(variables: dict[str, str]) -> None:
    code = f"from kernels_inline import build, dispatch; build.source = lambda: {CANARY!r}; dispatch.call('canary', 3)"
    run = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    if "heap-buffer-overflow" not in run.stderr:
        raise SystemExit(f"sanitize: a mistake made on purpose was not reported\n{run.stderr[-2000:]}")
    print("sanitize: a mistake made on purpose was reported; now the kernels", flush=True)


def main(arguments: list[str]) -> int:
    try:
        variables = environment()
    except build.BuildError as error:
        raise SystemExit(f"sanitize: {error}") from error
    check_that_mistakes_are_found(variables)
    tests = [str(path) for path in sorted(TESTS.glob("test_kernels_*.py"))]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not opcheck", *tests, *arguments]
    code = subprocess.run(command, env=variables).returncode
    print("sanitize: clean" if code == 0 else f"sanitize: pytest ended with {code}; the report is above")
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
