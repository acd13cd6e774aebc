"""threads.py: how threads wait, each in a process of its own, since OpenMP reads its variables once."""

import os
import subprocess
import sys

from annsoftmax_ref import cli
from annsoftmax_ref.machine.threads import VARIABLES


def waits(**environment):
    """What ``waiting()`` says with two threads."""
    kept = {name: value for name, value in os.environ.items() if name not in (*VARIABLES, "OMP_NUM_THREADS")}
    script = "import torch\ntorch.set_num_threads(2)\nfrom annsoftmax_ref.machine.threads import waiting\n"
    script += "print(waiting())"
    run = subprocess.run([sys.executable, "-c", script], env=kept | environment, capture_output=True, text=True)
    return run.stdout.strip()


def test_threads_sleep_where_the_environment_says_so():
    assert waits(OMP_WAIT_POLICY="passive") == "asleep (OMP_WAIT_POLICY=passive)"


def test_spinning_is_told_and_what_to_do_about_it():
    text = waits(OMP_WAIT_POLICY="active")
    assert text.startswith("spinning (OMP_WAIT_POLICY=active): ") and "set GOMP_SPINCOUNT=1000" in text


def told_to_commands(*command, **environment):
    """GOMP_SPINCOUNT of a process that imports the package, started in that way."""
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    run = subprocess.run([sys.executable, *command], env=kept | environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_threads_of_a_command_sleep_soon_and_those_of_a_program_as_it_says(tmp_path):
    assert "asleep (GOMP_SPINCOUNT=1000)" in told_to_commands("-m", "annsoftmax_ref", "doctor")
    assert "asleep (OMP_WAIT_POLICY=passive)" in told_to_commands(
        "-m", "annsoftmax_ref", "doctor", OMP_WAIT_POLICY="passive"
    )
    script = "import os, annsoftmax_ref; print(os.environ.get('GOMP_SPINCOUNT'))"
    assert told_to_commands("-c", script).strip() == "None"
    installed = tmp_path / "annsoftmax"  # as pip makes it
    installed.write_text(script)
    assert told_to_commands(str(installed)).strip() == "1000"


def test_doctor_says_how_threads_wait(capsys):
    assert cli.main(["doctor"]) == 0
    assert "threads wait asleep" in capsys.readouterr().out  # one thread waits for nobody
