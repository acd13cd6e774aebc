"""lessons/sampling.py: the picture of notebook 02, what it is drawn from, and the exercises."""

import ipywidgets as widgets
import numpy as np
import pytest
from moved_controls import move

from annsoftmax_ref import reference as ref
from annsoftmax_ref.lessons import check, explore
from annsoftmax_ref.lessons.exercises import Exercise
from annsoftmax_ref.lessons.sampling import (
    EXERCISES,
    corrected_log_z,
    draw_estimates,
    random_weights,
    relative_spread,
    seen_through,
    tail_weights,
)

N, D, SCALE = 60, 8, 6.0


def problem(seed=0):
    """x [d], w [N, d], unit rows; the own class."""
    rng = np.random.default_rng(seed)
    w = ref.normalize(rng.standard_normal((N, D)))
    return ref.normalize(w[7] + 0.3 * rng.standard_normal(D)), w, 7


@pytest.mark.parametrize("A", [1, 2, 5, 30, N])
def test_weights_are_those_of_the_reference(A):
    x, w, own = problem()
    logits, keys = SCALE * w @ x, np.random.default_rng(1).random((20, N))
    plain, counted = random_weights(own, A, keys)
    tail = tail_weights(logits, own, A, keys)
    for draw, key in enumerate(keys):
        order = np.argsort(-key)
        for weights, searched in ((counted[draw], [own]), (tail[draw], np.flatnonzero(tail[draw] == 1))):
            if A == N or len(searched) == A:
                assert (weights <= 1).all()
                continue
            active, log_weights = ref.uniform_tail(searched, order, A, N)
            np.testing.assert_array_equal(np.flatnonzero(weights), active)
            np.testing.assert_allclose(weights[active], np.exp(log_weights))
        assert plain[draw, own] == counted[draw, own] == tail[draw, own] == 1
        np.testing.assert_array_equal(plain[draw], counted[draw] > 0)
    assert (plain.sum(axis=1) == A).all() and ((tail > 0).sum(axis=1) == A).all()


def test_the_nearest_are_certain_in_the_tail_estimator():
    x, w, own = problem()
    logits = SCALE * w @ x
    weights = tail_weights(logits, own, 20, np.random.default_rng(1).random((50, N)))
    ranked = np.argsort(-np.where(np.arange(N) == own, np.inf, logits))
    assert (weights[:, ranked[:10]] == 1).all() and (weights[:, ranked[10:]] != 1).all()


def test_corrected_estimates_are_unbiased_and_plain_ones_too_small():
    x, w, own = problem()
    keys = np.random.default_rng(2).random((4000, N))
    ways = (*random_weights(own, 12, keys), tail_weights(SCALE * w @ x, own, 12, keys))
    plain, counted, tail = (seen_through(weights, x, w, own, SCALE)[0] for weights in ways)
    for ratios in (counted, tail):
        assert abs(ratios.mean() - 1) < 4 * ratios.std() / np.sqrt(4000)
    assert plain.max() < 1 and tail.std() < counted.std()


def test_errors_are_those_of_the_reference_gradient():
    x, w, own = problem()
    keys = np.random.default_rng(3).random((5, N))
    plain, counted = random_weights(own, 12, keys)
    cross_entropy = ref.make_objective("cross_entropy", scale=SCALE)
    full = ref.full_loss(x[None], w, np.array([own]), cross_entropy)[1]
    for weights in (plain, counted):
        _, errors = seen_through(weights, x, w, own, SCALE)
        for row, error in zip(weights, errors, strict=True):
            active = np.flatnonzero(row)
            objective = ref.with_log_weights(cross_entropy, np.log(row[active]), SCALE)
            dx = ref.active_loss(x[None], w, np.searchsorted(active, [own]), active, objective)[1]
            assert np.isclose(error, np.linalg.norm(dx - full) / np.linalg.norm(full))


def test_all_classes_have_no_error():
    x, w, own = problem()
    for weights in random_weights(own, N, np.random.default_rng(4).random((3, N))):
        ratios, errors = seen_through(weights, x, w, own, SCALE)
        np.testing.assert_allclose(ratios, 1)
        np.testing.assert_allclose(errors, 0, atol=1e-12)


def test_the_picture_follows_its_controls():
    box = explore(
        draw_estimates,
        rate=widgets.FloatLogSlider(value=0.1, min=-2, max=0),
        scale=widgets.IntSlider(value=20, min=1, max=60),
        drawing=widgets.IntSlider(value=15, max=1023),
    )
    seconds = move(box, ("rate", 0.01), ("scale", 5), ("drawing", 3), ("rate", 1.0), ("scale", 60))
    assert max(seconds) < 2  # 0.15 s on an idle core


def test_the_picture_is_the_same_twice():
    first, second = (draw_estimates(0.1, 20, 15).axes[0].lines[0].get_xdata() for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", sorted(EXERCISES))
def test_each_exercise_rejects_what_is_a_little_off(name, capsys):
    exercise = EXERCISES[name]
    wrong = Exercise(lambda *arguments: exercise.solution(*arguments) * 1.01, exercise.cases)
    assert not check(wrong, exercise.solution)


def test_solutions_are_right_by_enumeration_and_experiment():
    logits = np.array([2.0, 1.0, 0.5, -1.0])
    pairs = [np.exp(corrected_log_z(0.3, logits[[i, j]], 4)) for i in range(4) for j in range(i)]
    assert np.isclose(np.mean(pairs), np.exp(logits).sum() + np.exp(0.3))
    rng, terms, q = np.random.default_rng(0), np.exp(logits), np.array([0.4, 0.3, 0.2, 0.1])
    drawn = rng.choice(4, size=(20_000, 5), p=q)
    tried = (terms[drawn] / q[drawn]).mean(axis=1).std() / terms.sum()
    assert np.isclose(tried, relative_spread(terms, q, 5), rtol=0.03)
