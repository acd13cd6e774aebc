"""tools/kill_test.py: two random kills here; twenty, and another number of processes, are `make kill-test`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_where_an_uninterrupted_one_ends(tmp_path):
    labels, rng = np.arange(3000) % 60, np.random.default_rng(0)
    np.save(tmp_path / "features.npy", rng.standard_normal((60, 16), dtype=np.float32)[labels])
    np.save(tmp_path / "labels.npy", labels)
    numbers = ["--rate", "0.6", "--batch", "32", "--epochs", "2", "--steps", "50", "--dim", "16", "--save-every", "10"]
    seed = np.random.SeedSequence().entropy % 2**31  # told by the tool, first thing
    command = [sys.executable, "tools/kill_test.py", "--task", f"features:{tmp_path}", "--kills", "2", "--then", "0"]
    done = subprocess.run(
        [*command, "--seed", str(seed), "--", *numbers, "--device", "cpu"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"kills": 2, "equal": True}
