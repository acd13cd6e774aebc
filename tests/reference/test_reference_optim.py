"""The NumPy reference: optimizer steps against torch.optim, closed-form catch-up against step-by-step loops.

Measured here: SGD agrees to 1e-12 for any schedule. AdamW agrees to 1e-12 with eps = 0 or one missed step;
with eps > 0 its drift is off by a share of at most 0.002 (eps / u)^2, u = sqrt(v) (worst just after the
first step): 2e-9 for u = 1000 eps. Where gradients are as small as eps, the share is, for the bounds tested,

    last touched at step      1        100      10,000
    u = eps                 0.002    1.5e-4      1e-5
    u = eps / 100           0.15     2e-3        3e-5
"""

import numpy as np
import pytest
import torch

from annsoftmax_ref import reference as ref

BETAS = (0.9, 0.999)


def schedule(steps, lr=0.1):
    """Warm-up, then cosine decay: no two steps are alike."""
    return [lr * min(1, (k + 1) / 5) * (0.55 + 0.45 * np.cos(np.pi * k / steps)) for k in range(steps)]


@pytest.mark.parametrize("weight_decay", [0.0, 0.03])
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_step_is_torch(momentum, weight_decay, nesterov, rng):
    w, buf = rng.standard_normal((3, 4)), np.zeros((3, 4))
    weight = torch.tensor(w, requires_grad=True)
    settings = dict(momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
    optimizer = torch.optim.SGD([weight], lr=1, **settings)
    for lr in schedule(30):
        grad = rng.standard_normal((3, 4))
        w, buf = ref.sgd_step(w, buf, grad, lr, momentum, weight_decay, nesterov)
        optimizer.param_groups[0]["lr"] = lr
        weight.grad = torch.tensor(grad)
        optimizer.step()
    np.testing.assert_allclose(w, weight.detach().numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("weight_decay", [0.0, 0.03])
def test_adamw_step_is_torch(weight_decay, rng):
    w, m, v = rng.standard_normal((3, 4)), np.zeros((3, 4)), np.zeros((3, 4))
    weight = torch.tensor(w, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=1, betas=BETAS, eps=1e-8, weight_decay=weight_decay)
    for step, lr in enumerate(schedule(30), start=1):
        grad = rng.standard_normal((3, 4)) * (step % 4 != 0)
        w, m, v = ref.adamw_step(w, m, v, grad, step, lr, *BETAS, weight_decay=weight_decay)
        optimizer.param_groups[0]["lr"] = lr
        weight.grad = torch.tensor(grad)
        optimizer.step()
    np.testing.assert_allclose(w, weight.detach().numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("steps", [0, 1, 7, 300])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sgd_catch_up_is_the_missed_steps(momentum, weight_decay, nesterov, steps, rng):
    w, buf = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    history = [(lr, momentum, weight_decay * (1 + k % 3)) for k, lr in enumerate(schedule(steps))]
    caught_up = ref.sgd_catch_up(w, buf, history, nesterov)
    for lr, mu, wd in history:
        w, buf = ref.sgd_step(w, buf, np.zeros_like(w), lr, mu, wd, nesterov)
    np.testing.assert_allclose(caught_up[0], w, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(caught_up[1], buf, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sparse_training_with_catch_up_is_dense_training(nesterov, rng):
    """200 steps, each touching a third of the rows; the lagging rows wait, and in the end all are equal."""
    N, settings = 12, (0.9, 0.01)
    dense_w = lazy_w = rng.standard_normal((N, 3))
    dense_buf = lazy_buf = np.zeros((N, 3))
    lazy_w, lazy_buf, last = lazy_w.copy(), lazy_buf.copy(), np.zeros(N, int)
    history = [(lr, *settings) for lr in schedule(200)]

    def catch_up(row, now):
        missed = history[last[row] : now]
        lazy_w[row], lazy_buf[row] = ref.sgd_catch_up(lazy_w[row], lazy_buf[row], missed, nesterov)

    for step, (lr, mu, wd) in enumerate(history):
        grad = np.zeros((N, 3))
        active = rng.choice(N, 4, replace=False)
        for row in active:
            catch_up(row, step)  # first, so that the gradient sees the true weights
            grad[row] = np.sin(7 * lazy_w[row]) + rng.standard_normal(3)
            state = lazy_w[row], lazy_buf[row]
            lazy_w[row], lazy_buf[row] = ref.sgd_step(*state, grad[row], lr, mu, wd, nesterov)
            last[row] = step + 1
        dense_w, dense_buf = ref.sgd_step(dense_w, dense_buf, grad, lr, mu, wd, nesterov)
    for row in range(N):
        catch_up(row, len(history))
    np.testing.assert_allclose(lazy_w, dense_w, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(lazy_buf, dense_buf, rtol=1e-12, atol=1e-12)


def adamw_loop(w, m, v, last_step, history, eps):
    for k, (lr, weight_decay) in enumerate(history, start=1):
        w, m, v = ref.adamw_step(w, m, v, np.zeros_like(w), last_step + k, lr, *BETAS, eps, weight_decay)
    return w, m, v


@pytest.mark.parametrize("last_step", [1, 10, 1000])
@pytest.mark.parametrize("steps", [0, 1, 9, 400])
def test_adamw_catch_up_is_exact_without_eps(steps, last_step, rng):
    w, m, v = rng.standard_normal((3, 4)), rng.standard_normal((3, 4)), rng.uniform(1e-12, 1, (3, 4))
    history = [(lr, 0.02 * (k % 3)) for k, lr in enumerate(schedule(steps))]
    caught_up = ref.adamw_catch_up(w, m, v, last_step, history, *BETAS, eps=0.0)
    slow = adamw_loop(w, m, v, last_step, history, eps=0.0)
    for ours, theirs in zip(caught_up, slow, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("last_step", [1, 50])
def test_adamw_catch_up_of_one_step_is_exact_at_any_eps(last_step, rng):
    w, m = rng.standard_normal((2, 5)), rng.standard_normal((2, 5))
    v = 10.0 ** -np.arange(0, 20, 2).reshape(2, 5)
    caught_up = ref.adamw_catch_up(w, m, v, last_step, [(0.1, 0.01)], *BETAS, eps=1e-4)
    for ours, theirs in zip(caught_up, adamw_loop(w, m, v, last_step, [(0.1, 0.01)], 1e-4), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13)


def drift_error(u, last_step, steps, eps=1e-8):
    """Relative error of the drift (the movement that is not decay) for sqrt(v) = u."""
    w, m, v = np.zeros((1, 1)), np.full((1, 1), u / 2), np.full((1, 1), u * u)
    history = [(lr, 0.01) for lr in schedule(steps)]
    caught_up = ref.adamw_catch_up(w, m, v, last_step, history, *BETAS, eps)[0]
    slow = adamw_loop(w, m, v, last_step, history, eps)[0]
    return abs((caught_up - slow) / slow).item()


@pytest.mark.parametrize("steps", [2, 10, 100, 1000])
@pytest.mark.parametrize("last_step", [1, 10, 100, 10_000])
def test_adamw_catch_up_error_for_ordinary_gradients(last_step, steps):
    for ratio in (1e1, 1e2, 1e3, 1e4, 1e6):  # u / eps
        assert drift_error(ratio * 1e-8, last_step, steps) <= 0.002 / ratio**2 + 1e-13


@pytest.mark.parametrize("last_step, at_eps, far_below", [(1, 2e-3, 0.15), (100, 1.5e-4, 2e-3), (10_000, 1e-5, 3e-5)])
def test_adamw_catch_up_error_for_vanishing_gradients(last_step, at_eps, far_below):
    assert drift_error(1e-8, last_step, 1000) <= at_eps
    assert drift_error(1e-10, last_step, 1000) <= far_below


def test_adamw_catch_up_of_untouched_rows_and_very_long_lags():
    w, zero = np.full((1, 2), 3.0), np.zeros((1, 2))
    for eps in (0.0, 1e-8):  # never had a gradient: only decay, and no 0 / 0
        caught_up = ref.adamw_catch_up(w, zero, zero, 0, [(0.1, 0.01)] * 5, *BETAS, eps)
        np.testing.assert_allclose(caught_up[0], w * 0.999**5, rtol=1e-14)
    m, v, long = np.ones((1, 2)), np.ones((1, 2)), [(1e-3, 0.0)] * 60_000  # b1^k and b2^k leave the range
    np.testing.assert_allclose(
        ref.adamw_catch_up(w, m, v, 1, long * 15)[0], adamw_loop(w, m, v, 1, long[:2000], 1e-8)[0], rtol=1e-12
    )


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda a: ref.adamw_step(a, a, a, a, 0, 0.1), "step is 0; it should be at least 1"),
        (lambda a: ref.adamw_catch_up(a, a, a, -1, []), "last_step is -1; it should be at least 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((1, 1)))
