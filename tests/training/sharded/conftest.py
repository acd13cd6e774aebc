"""A folder that most tests here read or spoil."""

import pytest
from ranks import on_ranks
from sharded_runs import new_run, train

from annsoftmax_ref.training.sharded import Checkpoints


@pytest.fixture
def saved(tmp_path):
    """A folder with the steps 3 and 4 of a run on two processes."""

    def save(rank, group):
        run = new_run(group=group)
        with Checkpoints(tmp_path, group) as checkpoints:
            for step in (3, 4):
                train(run, step, step + 1, rank)
                checkpoints.save(step, run, {"step": step})

    on_ranks(2, save)
    return tmp_path
