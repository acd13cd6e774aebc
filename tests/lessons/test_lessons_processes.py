"""lessons/processes.py: real processes that run a function's text, and of which none stays."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from annsoftmax_ref.lessons.processes import Processes, on_processes

ROOT = Path(__file__).resolve().parents[2]


def summed(rank, group, number):
    import torch
    import torch.distributed as dist

    values = torch.tensor([float(rank + number)])
    dist.all_reduce(values, group=group)
    print("the sum is", values.item(), end="\n")
    return os_id(), values


def os_id():
    import os

    return os.getpid()


def fails(rank, group):
    import torch
    import torch.distributed as dist

    if rank == 1:
        raise ValueError("no")
    dist.all_reduce(torch.ones(3), group=group)


def waits(rank, group):
    import torch
    import torch.distributed as dist

    print(os_id())
    if rank == 0:
        dist.all_reduce(torch.ones(3), group=group)


def goes_on(rank, group):
    import time

    import torch
    import torch.distributed as dist

    for step in range(200):
        dist.all_reduce(torch.ones(3), group=group)
        print(step)
        time.sleep(0.02)


def crashes(rank, group):
    import os

    os.write(2, b"the last words\n")
    os._exit(7)


def there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def gone(pids, seconds=30.0):
    deadline = time.monotonic() + seconds
    while any(there(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(there(pid) for pid in pids)


def test_real_processes_of_one_group_run_the_function_and_end(capsys):
    returned = on_processes(3, summed, 1, using=[os_id])
    pids = [pid for pid, _ in returned]
    assert [values.item() for _, values in returned] == [6.0, 6.0, 6.0]
    assert len({*pids, os.getpid()}) == 4 and gone(pids)
    assert capsys.readouterr().out.splitlines() == [f"process {rank}: the sum is 6.0" for rank in range(3)]


def test_the_error_that_came_first_is_raised_and_the_others_notice():
    with pytest.raises(RuntimeError, match="^process 1 of 3: ValueError: no$"):
        on_processes(3, fails)
    with Processes(3, fails) as running:
        outcomes = running.wait()
    assert all("RuntimeError" in outcomes[rank].error for rank in (0, 2))


def test_who_waits_for_ever_is_ended_at_the_time_out_and_who_has_ended_is_not():
    start = time.monotonic()
    with Processes(2, waits, using=[os_id], timeout=2.0) as running:
        pids = [int(line) for _, line in running.lines()]
        outcomes = running.wait()
    assert outcomes[0].error.startswith("still waiting after 2.") and outcomes[1].error is None
    assert gone(pids) and time.monotonic() - start < 20


def test_a_killed_process_is_named_and_the_others_notice():
    with Processes(2, goes_on, timeout=30) as running:
        for rank, line in running.lines():
            if (rank, line) == (1, "5"):
                running.kill(1)
        outcomes = running.wait()
    assert outcomes[1].error == "killed by SIGKILL" and "RuntimeError" in outcomes[0].error
    assert outcomes[0].seconds < 10


def test_a_process_that_ends_without_a_word_leaves_its_last_line():
    with Processes(1, crashes) as running:
        assert running.wait()[0].error == "ended with 7: the last words"


@pytest.fixture
def interrupts():
    """Ctrl-C interrupts, as in a notebook; pytest's workers ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_none_stays_when_the_cell_is_interrupted(interrupts):
    pids = []
    with pytest.raises(KeyboardInterrupt), Processes(2, waits, using=[os_id]) as running:
        for _, line in running.lines():
            pids.append(int(line))
            if len(pids) == 2:
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert len(pids) == 2 and gone(pids)


@pytest.mark.slow
def test_none_stays_when_the_notebook_is_killed(tmp_path):
    script = tmp_path / "notebook.py"
    script.write_text(
        textwrap.dedent("""
        from annsoftmax_ref.lessons.processes import Processes


        def forever(rank, group):
            import os, time
            print(os.getpid(), os.getppid())  # and the server that it was forked from
            time.sleep(600)


        if __name__ == "__main__":
            with Processes(2, forever) as running:
                for _, line in running.lines():
                    print(line, flush=True)
        """)
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True) as notebook:
        pids = {int(pid) for _ in range(2) for pid in notebook.stdout.readline().split()}
        assert len(pids) == 3 and all(there(pid) for pid in pids)
        assert list(tmp_path.glob("annsoftmax_ranks_*"))
        notebook.kill()
    assert gone(pids) and not list(tmp_path.glob("annsoftmax_ranks_*"))


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="ranks is 0"):
        Processes(0, summed)
    with pytest.raises(TypeError, match="function is <built-in function len>, which has no text"):
        Processes(2, len)
