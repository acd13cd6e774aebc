"""Threads that wait for work: asleep, or spinning on a core that another process could use.

torch's threads and those of our C++ kernels are one OpenMP team. By default a thread that has nothing to do spins for
some milliseconds, which is fast on a machine that does nothing else; beside another training on the same cores a step
then takes many times as long. ``GOMP_SPINCOUNT=1000`` in the environment lets threads sleep after some microseconds,
which is what OpenMP itself does where threads outnumber cores; the command line sets it. ``OMP_WAIT_POLICY=passive``
lets them sleep at once, and costs more where nothing else runs. OpenMP reads both once, when torch is imported.
"""

from __future__ import annotations

import os
import time

import torch

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
PAUSE = 0.004  # seconds


def threads_spin(looks: int = 5) -> bool:
    """Whether this process's threads use a core while they wait, as measured: processor time while nothing is done.

    The largest of several looks counts, since a thread cannot spin while another process has its core.
    """
    work, spent = torch.ones(2**20), []
    for _ in range(looks):
        work.add_(1.0)  # a region of all threads
        start = time.process_time()
        time.sleep(PAUSE)
        spent.append(time.process_time() - start)
    return torch.get_num_threads() > 1 and max(spent) > PAUSE / 4


def waiting() -> str:
    """How threads wait here, and what to do about it, in one line for people."""
    chosen = ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ) or "no policy is set"
    if not threads_spin():
        return f"asleep ({chosen})"
    return f"spinning ({chosen}): where other work shares the cores, set GOMP_SPINCOUNT=1000 before Python starts"
