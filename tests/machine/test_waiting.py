"""waiting.py: silence while work is quick, then a line now and then that says how far it is."""

import logging

import pytest

from annsoftmax_ref.machine import waiting

logger = logging.getLogger("annsoftmax_ref.test")


@pytest.fixture
def clock(monkeypatch):
    """A list of one number, the time."""
    now = [100.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    return now


def test_quick_work_is_done_in_silence(clock, caplog):
    work = waiting.LongWork(logger, "sorting")
    work.begin("all", 19)
    for _ in range(19):
        clock[0] += 0.1
        work.add(1)
    assert caplog.messages == []


def test_long_work_says_after_two_seconds_how_far_it_is_and_then_every_five(clock, caplog):
    work = waiting.LongWork(logger, "sorting 30 cards")
    for stage in ("red", "black"):
        work.begin(stage, 60)
        for _ in range(6):
            clock[0] += 1
            work.add(10)
    assert caplog.messages == [
        "sorting 30 cards: red, 33% after 2 s",
        "sorting 30 cards: black, 17% after 7 s",
        "sorting 30 cards: black, 100% after 12 s",
    ]


def test_a_user_who_has_set_up_no_logging_sees_the_lines(clock, capsys, monkeypatch):
    lonely = logging.Logger("of nobody")  # without a handler, as a library's is before a program sets one up
    work = waiting.LongWork(lonely, "sorting")
    work.begin("all", 4)
    clock[0] += 3
    work.add(1)
    assert capsys.readouterr().err == "sorting: all, 25% after 3 s\n"
