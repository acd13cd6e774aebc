"""threads.py: how threads wait, each in a process of its own, since OpenMP reads its variables once."""

import os
import subprocess
import sys

from annsoftmax_ref import cli
from annsoftmax_ref.machine.threads import VARIABLES


def waits(first, **environment):
    """What ``waiting()`` says with two threads, after importing ``first`` before the rest."""
    kept = {name: value for name, value in os.environ.items() if name not in (*VARIABLES, "OMP_NUM_THREADS")}
    script = f"import {first}, torch\ntorch.set_num_threads(2)\nfrom annsoftmax_ref.machine.threads import waiting\n"
    script += "print(waiting())"
    run = subprocess.run([sys.executable, "-c", script], env=kept | environment, capture_output=True, text=True)
    return run.stdout.strip()


def test_threads_sleep_where_the_package_is_imported_before_torch():
    assert waits("annsoftmax_ref") == "asleep (OMP_WAIT_POLICY=passive)"


def test_it_is_told_that_torch_was_imported_first():
    assert waits("torch").startswith("spinning (OMP_WAIT_POLICY=passive): ")


def test_what_the_user_sets_wins_and_spinning_is_told():
    text = waits("annsoftmax_ref", OMP_WAIT_POLICY="active")
    assert text.startswith("spinning (OMP_WAIT_POLICY=active): ") and "import annsoftmax_ref before torch" in text


def test_doctor_says_how_threads_wait(capsys):
    assert cli.main(["doctor"]) == 0
    assert "threads wait asleep" in capsys.readouterr().out  # one thread waits for nobody
