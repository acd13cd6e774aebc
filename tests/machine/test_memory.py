"""memory.py: what is measured is what was in use."""

import subprocess
import sys

import torch

from annsoftmax_ref.machine import memory


def test_peak_memory_sees_what_was_in_use_and_given_back():
    with memory.peak_memory(torch.device("cpu")) as peak:
        block = torch.ones(300 * 2**20 // 4)  # too large for the allocator to have lying about
        del block
    assert peak["peak_mb"] is None or 290 < peak["peak_mb"] < 400


def test_kept_memory_is_used_again():
    """In a process of its own, since the change is for good: page faults of a second block of the same size."""
    script = """
import resource, torch
from annsoftmax_ref.machine import memory
kept = memory.keep_freed_memory()
torch.ones(2**25)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**25)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    kept, faults = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.split()
    assert kept == "False" or int(faults) < 1000  # 128 MB of new 4 KB pages would be 32,768
