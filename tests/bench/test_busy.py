"""busy.py: copies run beside a measurement, and end with it."""

import json
import multiprocessing
import time

import pytest
import torch

from annsoftmax_ref import cli
from annsoftmax_ref.bench import step
from annsoftmax_ref.bench.busy import copies
from annsoftmax_ref.bench.step import steps_in_turn

TINY = (300, 16, 8, 0.1, ["full", "ann"], False, torch.device("cpu"), 0, 1, {})


def test_copies_take_steps_inside_the_block_and_are_gone_after_it():
    with copies(1, steps_in_turn, *TINY) as (calls,):
        before, deadline = calls.value, time.monotonic() + 60
        while calls.value < before + 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert before >= 1 and calls.value >= before + 3 and len(multiprocessing.active_children()) == 1
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_or_an_interruption_leaves_no_copy_behind(error):
    with pytest.raises(error), copies(1, steps_in_turn, *TINY):
        raise error
    assert multiprocessing.active_children() == []


def test_a_copy_that_ends_by_itself_is_told_and_not_waited_for(capfd):
    with pytest.raises(ChildProcessError, match="ended with status 1"), copies(1, steps_in_turn, *TINY[:-1], {"no": 1}):
        raise AssertionError("the block began without the copy")
    assert multiprocessing.active_children() == [] and "ValueError" in capfd.readouterr().err


def test_steps_are_timed_while_the_copies_run(monkeypatch, capsys):
    seen = []
    wait_for = step.wait_for
    monkeypatch.setattr(
        step, "wait_for", lambda device: (seen.append(len(multiprocessing.active_children())), wait_for(device))
    )
    arguments = ["bench", "step", "--classes", "300", "--dim", "16", "--batch", "8", "--rounds", "2", "--busy", "1"]
    assert cli.main([*arguments, "--heads", "full", "ann", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["busy"] for row in rows] == [1, 1] and "copies beside" in step.table(rows)
    # Each head's first step before the copies start; then two rounds of two heads, before and after each step.
    assert seen == [0] * 2 + [1] * 8 and multiprocessing.active_children() == []
    assert cli.main(["bench", "step", "--busy", "-1"]) == 2
    assert "busy is -1; it should be 0 or more copies" in capsys.readouterr().err
