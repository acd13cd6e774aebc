"""Rows that lag are brought up to date a part at a time before they are saved."""

import pytest
from sharded_runs import all_of, differences, new_run, train

from annsoftmax_ref import row_optimizer


@pytest.mark.parametrize("optimizer", ["sgd", "int8", "adamw"])
def test_parts_change_no_number(optimizer, monkeypatch):
    runs = []
    for part in (row_optimizer.PART, 7):
        monkeypatch.setattr(row_optimizer, "PART", part)
        run = new_run(50, optimizer=optimizer)
        train(run, 0, 4)
        state = run.optimizers["head"].state[run.head.weight]
        assert state["behind"] and (state["last"] < state["step"]).any()  # there are rows that lag
        runs.append(all_of(run))
        assert not state["behind"]
    assert differences(*runs) == []
