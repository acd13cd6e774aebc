"""Runs of tools and of strict nbval in processes of their own, for tests of the gate over the notebooks."""

import os
import re
import subprocess
import sys

ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "COV_"))},
    "CUDA_VISIBLE_DEVICES": "",  # a gpu cell is skipped on every machine
}


def run(*arguments, cwd, **environment):
    """python with these arguments, in the folder ``cwd``."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def nbval(path, *options, **environment):
    """Strict nbval over the notebook ``path``, beside which conftest.py and sanitize.cfg lie."""
    return run(
        "-m",
        "pytest",
        "-rfs",
        "--rootdir=.",
        "--nbval",
        "--nbval-current-env",
        "--nbval-sanitize-with",
        "sanitize.cfg",
        "-p",
        "no:cacheprovider",
        *options,
        path.name,
        cwd=path.parent,
        **environment,
    )


def failed_cells(result):
    """The numbers of the code cells, from 0, that failed in a run of ``nbval``."""
    return [int(number) for number in re.findall(r"^FAILED \S+::Cell (\d+)", result.stdout, re.MULTILINE)]
