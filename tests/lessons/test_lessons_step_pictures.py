"""Pictures of notebook 15: a number lands where the kernels' twin puts it; bars are as long as their numbers."""

import re

import numpy as np
import pytest
import torch
from moved_controls import QUICK, move

from annsoftmax_ref.lessons import step_pictures as pictures
from annsoftmax_ref.planning.memory import Training
from annsoftmax_ref.planning.times import CARDS, stages
from kernels_inline import rows_rounded


@pytest.mark.parametrize("value", [0.999, 1.0, 3.14159, 1e-20])
def test_neighbours_hold_the_number_and_are_of_bfloat16(value):
    lower, upper, rest = pictures.neighbours(value)
    assert lower <= np.float32(value) < upper
    assert np.isclose(lower + rest / 65536 * (upper - lower), value, rtol=1e-6)
    for end in (lower, upper):
        assert torch.tensor(end).to(torch.bfloat16).item() == end


@pytest.mark.parametrize("random", [0, 20_000, 48_758, 48_759, 65_535])
def test_it_lands_where_the_twin_puts_it(random):
    landed = rows_rounded.round_at_random(torch.tensor([0.999]), torch.tensor([random]), 0).item()
    lower, upper, _ = pictures.neighbours(0.999)
    picture = pictures.rounding(0.999, random, 4)
    assert ("a carry, up" in picture) == (landed == upper) and ("no carry, down" in picture) == (landed == lower)


def test_the_mean_of_many_is_right():
    assert abs(pictures.landings(0.999, 4096).mean() - 0.999) < 1e-4
    assert f"mean of 4: {pictures.landings(0.999, 4).mean():.6g}, off by" in pictures.rounding(0.999, 0, 4)


@pytest.mark.parametrize("value, random", [(0.0, 1), (-1.0, 1), (float("nan"), 1), (1.0, -1), (1.0, 1 << 16)])
def test_what_cannot_be_drawn_is_refused(value, random):
    with pytest.raises(ValueError, match="should be"):
        pictures.rounding(value, random, 1)


def test_bars_are_as_long_as_their_numbers():
    picture = pictures.bars({"one": {"a": 4.0, "b": 1.0}, "two": {"c": 2.0}})
    wide = [float(x) for x in re.findall(r'width="([\d.]+)" height="13"', picture)]
    assert wide == [470, 117.5, 235]
    assert "one: 5 ms" in picture and "two: 2 ms" in picture


def test_the_model_is_the_plan_s_and_says_that_it_is_one():
    picture = pictures.modelled("h100-80gb", 1_000_000, 0.1)
    times = stages(Training(1_000_000, 512, 512, 0.1, groups=1, flat=1), CARDS["h100-80gb"])
    assert picture.count("MODEL") >= 2
    for stage, spent in times.items():
        assert stage in picture and f"{spent:.3g} ms" in picture


def test_a_set_without_room_for_its_labels_is_not_modelled():
    with pytest.raises(ValueError, match="should be at least a set's labels"):
        pictures.modelled("h100-80gb", 10_000, 0.001)


def test_widgets_follow_their_controls():
    for explorer, moves in (
        (pictures.rounding_explorer, (("change", 0.0005), ("random", 60_000), ("draws", 12))),
        (pictures.modelled_explorer, (("card", "h200-141gb"), ("classes", 5.0), ("rate", 0.01), ("groups", 4))),
    ):
        assert min(move(explorer(), *moves)) < QUICK
