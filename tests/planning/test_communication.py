"""Bytes of a step's collectives, beside what a head's counter says; their times by hand."""

import pytest

from annsoftmax_ref.bench.capacity import TrainedPart
from annsoftmax_ref.bench.one_of_many import one_of_many
from annsoftmax_ref.planning import communication
from annsoftmax_ref.planning.communication import RING, TREE, Link, collectives, exchange_ms, received
from annsoftmax_ref.planning.memory import Training

PAPER = Training(300_000_000, 512, 16_384, flat=1)
JOBS = [
    (256, Training(102_400, 32, 512)),
    (256, Training(102_400, 32, 512, flat=1)),
    (16, Training(20_003, 32, 64, rate=0.5)),  # all candidates find room
    (16, Training(20_003, 32, 64, groups=4, products="fp32")),
    (3, Training(1003, 16, 30, rate=0.3, storage="bf16", optimizer="adamw")),
    (1, Training(1003, 16, 30)),
]


@pytest.mark.parametrize("ranks, job", JOBS, ids=str)
def test_the_plan_is_what_a_heads_counter_says_to_the_byte(ranks, job):
    with one_of_many(ranks // 2, ranks) as group:
        trained = TrainedPart(job, group=group)
        for _ in range(2):
            trained.head.shards.received.clear()
            trained()
        assert dict(trained.head.shards.received) == received(job, ranks)


def test_some_jobs_must_agree_on_an_order_and_some_not():
    assert [("order" in received(job, ranks)) for ranks, job in JOBS[:4]] == [True, False, False, False]


def test_what_is_received_by_hand_and_whatever_the_number_of_classes():
    found = received(PAPER, 256)
    assert found == {
        "header": 255 * 56,
        "features": 255 * 64 * 512 * 2,
        "labels": 255 * 64 * 8,
        "softmax": 3 * (2 * 255 * 16_384 * 4 // 256),
        "gradient": 255 * 64 * 512 * 4,
    }
    assert received(Training(3_000_000, 512, 16_384, flat=1), 256) == found


def test_the_time_of_a_collective_by_hand(monkeypatch):
    monkeypatch.setattr(communication, "REACHED", 0.5)
    link = Link(inside=20, between=2)
    within, beyond = exchange_ms(PAPER, 8, link), exchange_ms(PAPER, 64, link)
    (gradient,) = (one for one in collectives(PAPER, 8) if one.name == "gradient")
    assert gradient.count == 2048 * 512 * 4
    assert within["gradient"] == pytest.approx((7 * 2048 * 512 * 4 / 1e10) * 1e3 + 7 * RING[0] / 1e3)
    assert beyond["gradient"] == pytest.approx((63 * 256 * 512 * 4 / 1e9) * 1e3 + (56 * RING[0] + 7 * RING[1]) / 1e3)
    sums = 3 * (2 * 63 * 16_384 * 4 // 64) / 1e9 * 1e3
    assert beyond["softmax"] == pytest.approx(sums + 3 * 2 * (7 * TREE[0] + 3 * TREE[1]) / 1e3)
    assert beyond["header"] == pytest.approx(63 * communication.HOST / 1e3)  # whatever the link


def test_one_process_is_sent_nothing():
    assert sum(received(PAPER, 1).values()) == 0
    assert sum(exchange_ms(PAPER, 1, Link(300, 25)).values()) == 0
