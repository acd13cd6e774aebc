"""machine/processes.py: one process needs no torch.distributed (many: tests/commands/test_train.py)."""

import pytest
import torch
import torch.distributed as dist

from annsoftmax_ref.machine import processes
from annsoftmax_ref.machine.processes import VARIABLES, joined, tell_once


def test_one_process_is_the_first_and_has_no_group():
    with joined("cpu") as here:
        assert (here.rank, here.ranks, here.group, here.is_first) == (0, 1, None, True)
        assert here.device == torch.device("cpu")
        assert not dist.is_initialized()


def test_torchrun_with_one_process_is_one_process(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "1")
    assert not processes.are_launched() and processes.rank_here() == 0


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    assert processes._own_gpu(1) == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="more processes than its 2 GPUs; --nproc-per-node should be at most 2"):
        processes._own_gpu(2)


@pytest.mark.parametrize(
    "text, lost",
    [
        ("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:9", True),
        ("Timed out waiting 1000ms for recv operation to complete", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_errors_of_a_lost_process_are_told_from_others(text, lost):
    assert processes._tells_of_a_lost_process(RuntimeError(text)) is lost


def test_one_process_tells_what_it_has_to_tell(capsys):
    tell_once("a sentence")
    assert capsys.readouterr().err == "a sentence\n"
