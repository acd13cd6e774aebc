"""Notebook 09's picture and exercises: the path step by step and the jump are one; stubs fail, solutions pass."""

import ipywidgets as widgets
import numpy as np
import pytest
from moved_controls import QUICK, move

from annsoftmax_ref.lessons import check, explore, rows


@pytest.mark.parametrize(
    "lag, momentum, learning_rate, weight_decay", [(0, 0.9, 0.1, 0.01), (7, 0.0, 0.5, 0.1), (100, 0.99, 1, 0)]
)
def test_the_jump_lands_where_the_steps_do(lag, momentum, learning_rate, weight_decay):
    path = rows.missed_path(lag, momentum, learning_rate, weight_decay)
    assert path.shape == (lag + 1, 2) and np.array_equal(path[0], [1, 1])
    np.testing.assert_allclose(rows.jump(lag, momentum, learning_rate, weight_decay), path[-1], rtol=1e-12, atol=1e-12)


def test_the_path_by_hand():
    path = rows.missed_path(2, momentum=0.5, learning_rate=0.1, weight_decay=0.2)
    first = 0.5 + 0.2  # velocity: mu v + wd w
    second = 0.5 * first + 0.2 * (1 - 0.1 * first)
    np.testing.assert_allclose(path[:, 1], [1, first, second])
    np.testing.assert_allclose(path[:, 0], [1, 1 - 0.1 * first, 1 - 0.1 * first - 0.1 * second])


def test_the_picture_follows_each_control_in_time():
    box = explore(
        rows.draw,
        lag=widgets.IntSlider(value=30, min=1, max=rows.LONGEST),
        momentum=widgets.FloatSlider(value=0.9, max=0.99, step=0.01),
        learning_rate=widgets.FloatSlider(value=0.1, max=0.5, step=0.01),
    )
    seconds = move(box, ("lag", 5), ("momentum", 0.5), ("learning_rate", 0.3))
    assert min(seconds) < QUICK


def test_the_legend_says_where_both_ways_end():
    figure = rows.draw(lag=100, momentum=0.9, learning_rate=0.1)
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ends = [text.split(": ")[1] for text in texts if ": " in text]
    assert len(ends) == 2 and ends[0] == ends[1] == f"{rows.missed_path(100, 0.9, 0.1)[-1, 0]:.4f}"


@pytest.mark.parametrize(
    "values, words",
    [({"lag": 0}, "lag is 0"), ({"lag": 101}, "from 1 to 100"), ({"momentum": 1.0}, "momentum is 1.0")],
)
def test_what_cannot_be_drawn_is_said(values, words):
    with pytest.raises(ValueError, match=words):
        rows.draw(**values)


def test_wrong_answers_are_rejected(capsys):
    assert not check(rows.EXERCISES["total_drift"], lambda lr, mu, v: lr / (1 - mu) * v)  # counts the step itself
    assert not check(rows.EXERCISES["jump_without_decay"], lambda w, v, lr, mu, k: (w - lr * k * mu * v, mu**k * v))
    plain = rows.ref.sgd_missed_matrix
    assert not check(rows.EXERCISES["nesterov_matrix"], plain)


def test_the_jump_without_decay_is_the_path():
    for lag in (0, 3, 50):
        ours = rows.jump_without_decay(1.0, 1.0, 0.1, 0.9, lag)
        np.testing.assert_allclose(ours, rows.missed_path(lag, 0.9, 0.1, weight_decay=0.0)[-1], rtol=1e-12)


def test_the_row_optimizer_is_dense_sgd():
    rng = np.random.default_rng(0)
    optimizer = rows.NumPyRowSGD(rng.standard_normal((12, 3)), momentum=0.9, weight_decay=0.01)
    dense_w, dense_v = optimizer.w.copy(), np.zeros((12, 3))
    for step in range(80):
        ids, lr = rng.choice(12, 3, replace=False), 0.1 * (1 - step / 80)
        optimizer.catch_up(ids)
        gradient = np.zeros((12, 3))
        gradient[ids] = np.sin(5 * optimizer.w[ids])
        optimizer.move(ids, gradient[ids], lr)
        dense_w, dense_v = rows.ref.sgd_step(dense_w, dense_v, gradient, lr, 0.9, 0.01)
    assert not np.allclose(optimizer.w, dense_w, atol=1e-6)  # rows do lag until they are asked for
    optimizer.catch_up(np.arange(12))
    np.testing.assert_allclose(optimizer.w, dense_w, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(optimizer.v, dense_v, rtol=1e-12, atol=1e-12)
