"""lessons/beyond.py: the picture of notebook 16, the errors of means, and the exercises."""

import functools

import ipywidgets as widgets
import numpy as np
import pytest
from moved_controls import QUICK, move

from annsoftmax_ref import reference as ref
from annsoftmax_ref.beyond.mass_budget import AVERAGE, MassBudget
from annsoftmax_ref.lessons import check, explore
from annsoftmax_ref.lessons.beyond import (
    EXERCISES,
    averaged_log_z,
    draw_spread,
    error_of_means,
    far_logit,
    means_of,
    next_rate,
    tail_log_weights,
)
from annsoftmax_ref.lessons.exercises import Exercise

DRAWN = np.random.default_rng(0).normal(1.0, 0.2, size=(256, 16))
CERTAIN = np.full((1, 16), 0.7)


def test_means_are_of_draws_after_one_another_and_certain_ones_stay():
    np.testing.assert_allclose(means_of(DRAWN, 64)[1], DRAWN[64:128].mean(axis=0))
    assert means_of(DRAWN, 100).shape == (2, 16) and means_of(CERTAIN, 100) is CERTAIN


def test_the_error_falls_with_the_root_of_the_draws_unless_it_is_a_bias():
    for draws in (1, 4, 16):
        assert np.isclose(error_of_means(DRAWN, draws), 0.2 / np.sqrt(draws), rtol=0.1)
        assert np.isclose(error_of_means(CERTAIN, draws), 0.3)


def test_the_picture_follows_its_controls_and_is_quick():
    box = explore(
        functools.partial(draw_spread, {"drawn": DRAWN, "certain": CERTAIN}),
        draws=widgets.SelectionSlider(options=(1, 4, 256), value=1),
        sample=widgets.IntSlider(max=15),
    )
    assert max(move(box, ("draws", 4), ("sample", 3), ("draws", 256))) < QUICK
    with pytest.raises(ValueError, match="draws is 257; it should be from 1 to 256"):
        draw_spread({"drawn": DRAWN}, draws=257)


# --- exercises ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXERCISES)
def test_each_exercise_rejects_what_is_a_little_off(name, capsys):
    exercise = EXERCISES[name]
    wrong = Exercise(lambda *arguments: exercise.solution(*arguments) * 1.01 + 1e-3, exercise.cases)
    assert not check(wrong, exercise.solution)


def test_solutions_are_those_of_the_reference_and_the_package():
    active, weights = ref.uniform_tail([1, 3], np.array([2, 0, 4]), 4, 9)
    ours = tail_log_weights(2, 2, 9)
    np.testing.assert_allclose(np.sort(weights), np.sort(ours))
    rng = np.random.default_rng(0)
    means, sizes, assignment = 0.4 * ref.normalize(rng.standard_normal((3, 8))), [2, 1, 3], [0, 0, 1, 2, 2, 2]
    x, offsets = ref.normalize(rng.standard_normal(8)), ref.far_offsets(means, sizes, assignment, [0, 2], 20.0)
    lists = zip(means, (1, 0, 3), strict=True)
    np.testing.assert_allclose([far_logit(mean, left, x, 20.0) for mean, left in lists], 20 * means @ x + offsets)
    budget = MassBudget(0.02, 0.9)
    budget.rate.fill_(0.1)
    budget.follow(0.6)
    assert np.isclose(float(budget.rate), next_rate(0.1, 0.6, 0.9, 0.02))
    before = float(budget.rate)
    budget.follow(0.8)
    assert np.isclose(float(budget.rate), next_rate(before, 0.6 + AVERAGE * 0.2, 0.9, 0.02))
    assert np.isclose(averaged_log_z(np.log([1.0, 3.0])), np.log(2.0))
