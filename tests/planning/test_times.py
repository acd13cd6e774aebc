"""The model of a step's time: its figures by hand, and that it moves as it should."""

import pytest

from annsoftmax_ref.planning.memory import Training
from annsoftmax_ref.planning.times import CARDS, Card, full_stages, stages

ROUND = Card(80, 1.25, 1e3 / 6, 1e3 / 12)  # a byte takes 1 / 10^12 s, an operation 10^-14 s, in float32 twice that


def test_the_stages_of_a_full_softmax_by_hand():
    job = Training(1_000_000, 512, 512)
    assert full_stages(job, ROUND) == pytest.approx(
        {
            "unit rows": 512 * 6 / 1e3,  # ms: N d numbers, read in float32 and written in bfloat16
            "products": 3 * 2 * 512 * 512 / 1e5,
            "softmax": 3 * 512 * 2 / 1e3,
            "update": 512 * (2 + 16) / 1e3,
        }
    )


def test_the_stages_of_one_active_set_by_hand():
    found = stages(Training(1_000_000, 512, 512, rate=0.1, groups=1, flat=1), ROUND)
    assert found["products"] == pytest.approx(3 * 2 * 512 * 512 / 1e6)
    assert found["unit rows"] == pytest.approx(51.2 * (8 + 2) / 1e3)  # weight and momentum, read; written in bfloat16
    assert found["update and codes"] == pytest.approx((51.2 * (2 + 16) + 0.1 * 64) / 1e3)
    assert found["search"] == pytest.approx(512e6 * 9 / 8 / 4.9e12 * 1e3)


@pytest.mark.parametrize("gpu", CARDS)
def test_fewer_classes_and_narrower_numbers_take_less(gpu):
    def ms(**change):
        return sum(stages(Training(**{"classes": 1_000_000} | change), CARDS[gpu]).values())

    assert ms(rate=0.01) < ms() < ms(groups=8) and ms(storage="bf16") < ms() < ms(products="fp32")
    assert ms(flat=1) < ms(flat=2) < ms()
