"""What tests of the notebooks share: tools/notebooks.py, and runs of it and of nbval in processes of their own."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

sys.path.insert(0, str(ROOT / "tools"))  # as for a script of that folder
_spec = importlib.util.spec_from_file_location("notebooks_tool", ROOT / "tools" / "notebooks.py")
tool = importlib.util.module_from_spec(_spec)  # tools/notebooks.py, which is in no package
_spec.loader.exec_module(tool)
notebook_cells = sys.modules["notebook_cells"]  # which it has imported

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
