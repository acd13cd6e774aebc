"""machine/stopping.py: the first signal is remembered, and Ctrl-C twice is Ctrl-C."""

import os
import signal

import pytest

from annsoftmax_ref.machine.processes import VARIABLES
from annsoftmax_ref.machine.stopping import StopRequest


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_asks_to_stop_and_the_handlers_are_put_back(number, status):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.wanted
        os.kill(os.getpid(), number)
        assert stop.wanted and (stop.name, stop.status) == (signal.Signals(number).name, status)
    assert signal.getsignal(number) is before


def test_a_second_sigterm_changes_nothing_and_a_second_sigint_interrupts():
    with StopRequest() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.name, stop.status) == ("SIGTERM", 143)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_end_of_torchrun_asks_to_stop(monkeypatch):
    for name in VARIABLES:
        monkeypatch.setenv(name, "2")
    stop = StopRequest()
    assert not stop.wanted
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert stop.wanted and (stop.name, stop.status) == ("the end of torchrun", 143)


def test_one_process_does_not_look_for_torchrun(monkeypatch):
    stop = StopRequest()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert not stop.wanted
