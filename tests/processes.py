"""Real processes: a script of the tests under torchrun, on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def torchrun(ranks: int, script: str | Path, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess:
    """What ``torchrun --nproc-per-node RANKS SCRIPT ARGUMENTS`` gave; a process has one thread."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.run(
        [*command, str(script), *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )
