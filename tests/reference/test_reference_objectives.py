"""The NumPy reference: objectives and gradients, against finite differences and plain Python loops."""

import math

import numpy as np
import pytest

from annsoftmax_ref import reference as ref

SETTINGS = {
    "cross_entropy": dict(scale=12.0),
    "cosface": dict(scale=12.0, margin=0.3),
    "arcface": dict(scale=12.0, margin=0.5),
    "dsoftmax": dict(scale=12.0, margin=0.9),
    "arcface_insightface": dict(scale=12.0, margin=0.5),
    "combined": dict(scale=12.0, margin=(1.7, 0.4, 0.2)),
    "dsoftmax_b": dict(scale=12.0, margin=0.9),
    "dsoftmax_k": dict(scale=12.0, margin=0.9),
}
STRAIGHT_THROUGH = "arcface_insightface"  # its dz is not the slope of its loss
TRUE_SLOPES = [name for name in ref.OBJECTIVES if name != STRAIGHT_THROUGH]
SHAPES = [(1, 1), (1, 7), (5, 1), (6, 9)]  # (B, A); with A = 1 there is nothing to push away


def central_difference(f, a, h=1e-5):
    """Gradient of the scalar f at a, entry by entry: (f(a + h) - f(a - h)) / 2h."""
    grad = np.zeros_like(a)
    for i in np.ndindex(a.shape):
        plus, minus = a.copy(), a.copy()
        plus[i] += h
        minus[i] -= h
        grad[i] = (f(plus) - f(minus)) / (2 * h)
    return grad


def sample_loss(name, z, y, scale, margin=0.0):
    """One sample's loss, written out with math.exp and angles: the slow form."""
    others = sum(math.exp(scale * z[k]) for k in range(len(z)) if k != y)
    if name.startswith("dsoftmax"):
        return math.log(1 + math.exp(scale * (margin - z[y]))) + math.log(1 + others)
    if name == "arcface":
        angle = math.acos(z[y]) + margin
        top = math.cos(angle) if angle <= math.pi else -2 - math.cos(angle)
    elif name == STRAIGHT_THROUGH:
        top = math.cos(math.acos(z[y]) + margin)
    elif name == "combined":
        angle, lower = margin[0] * math.acos(z[y]) + margin[1], 0
        while angle > math.pi:  # each half turn goes down by 2
            angle, lower = angle - math.pi, lower + 2
        top = math.cos(angle) - lower - margin[2]
    else:
        top = z[y] - margin
    return math.log(math.exp(scale * top) + others) - scale * top


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ref.OBJECTIVES)
def test_loss_is_the_mean_of_the_written_out_form(name, shape, rng):
    z, target = rng.uniform(-0.99, 0.99, shape), rng.integers(shape[1], size=shape[0])
    if name in ("arcface", "combined", STRAIGHT_THROUGH):
        z[0, target[0]] = -0.95  # past pi - margin: the mirrored branch
    loss, _ = ref.OBJECTIVES[name](z, target, **SETTINGS[name])
    slow = np.mean([sample_loss(name, row, y, **SETTINGS[name]) for row, y in zip(z, target, strict=True)])
    assert loss == pytest.approx(slow, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TRUE_SLOPES)
def test_dz_against_finite_differences(name, shape, rng):
    z, target = rng.uniform(-0.99, 0.99, shape), rng.integers(shape[1], size=shape[0])
    if name in ("arcface", "combined", STRAIGHT_THROUGH):
        z[0, target[0]] = -0.95
    objective = ref.make_objective(name, **SETTINGS[name])
    dz = objective(z, target)[1]
    numeric = central_difference(lambda a: objective(a, target)[0], z)
    np.testing.assert_allclose(dz, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ref.OBJECTIVES)
def test_large_scale_neither_overflows_nor_changes_z(name, rng):
    z, target = rng.uniform(-1, 1, (4, 6)), np.array([0, 5, 5, 2])
    before = z.copy()
    loss, dz = ref.OBJECTIVES[name](z, target, **{**SETTINGS[name], "scale": 5000.0})
    assert np.isfinite(loss) and np.isfinite(dz).all()
    np.testing.assert_array_equal(z, before)


def test_zero_margin_is_cross_entropy(rng):
    z, target = rng.uniform(-0.9, 0.9, (5, 8)), rng.integers(8, size=5)
    loss, dz = ref.cross_entropy(z, target, 10.0)
    for margin_objective in (ref.cosface, ref.arcface):
        same_loss, same_dz = margin_objective(z, target, 10.0, 0.0)
        assert same_loss == pytest.approx(loss, rel=1e-12)
        np.testing.assert_allclose(same_dz, dz, rtol=1e-11, atol=1e-14)


def test_arcface_target_falls_smoothly_through_pi():
    """The loss only falls as z_y rises, and both branches have the same value and slope at theta = pi - m."""
    margin, join = 0.5, math.cos(math.pi - 0.5)
    z = np.linspace(-1, 1, 4001)[:, None] * [[1.0, 0.0]]
    losses = [ref.arcface(row[None], np.array([0]), 4.0, margin)[0] for row in z]
    assert np.all(np.diff(losses) <= 1e-5)  # 1e-5: the clamp bends the curve in the last 1e-12 before z = +-1
    (below, dz_below), (above, dz_above) = (
        ref.arcface(np.array([[join + side, 0.0]]), np.array([0]), 4.0, margin) for side in (-1e-9, 1e-9)
    )
    assert below == pytest.approx(above, abs=1e-12)
    np.testing.assert_allclose(dz_below, dz_above, atol=1e-7)


@pytest.mark.parametrize("z_target", [-1.0, 1.0])
def test_arcface_is_finite_at_the_ends(z_target):
    loss, dz = ref.arcface(np.array([[z_target, 0.1]]), np.array([0]), 30.0, 0.5)
    assert np.isfinite(loss) and np.isfinite(dz).all()


def test_insightface_differs_from_arcface_by_the_documented_factor(rng):
    """Same value up to pi; the target's slope lacks the factor sin(theta + m) / sin(theta)."""
    margin = 0.5
    theta = rng.uniform(0.1, math.pi - margin, 20)
    z, target = np.column_stack([np.cos(theta), rng.uniform(-1, 1, (20, 3))]), np.zeros(20, dtype=int)
    (true, dz), (same, straight) = (f(z, target, 7.0, margin) for f in (ref.arcface, ref.arcface_insightface))
    assert same == pytest.approx(true, rel=1e-12)
    np.testing.assert_allclose(dz[:, 0], straight[:, 0] * np.sin(theta + margin) / np.sin(theta), rtol=1e-9)
    np.testing.assert_allclose(dz[:, 1:], straight[:, 1:], rtol=1e-12)
    z[:, 0] = math.cos(math.pi - margin / 2)
    assert ref.arcface_insightface(z, target, 7.0, margin)[0] < ref.arcface(z, target, 7.0, margin)[0] - 0.1


def test_combined_margin_is_the_three_it_combines(rng):
    z, target = rng.uniform(-1, 1, (30, 5)), rng.integers(5, size=30)
    for margin, other in (((1, 0.5, 0), ref.arcface), ((1, 0, 0.5), ref.cosface)):
        (loss, dz), (same, same_dz) = ref.combined(z, target, 9.0, margin), other(z, target, 9.0, 0.5)
        assert loss == pytest.approx(same, rel=1e-12)
        np.testing.assert_allclose(dz, same_dz, rtol=1e-9, atol=1e-14)


def test_combined_margin_falls_smoothly_through_every_piece():
    """SphereFace with m1 = 4 and a shift: five pieces, no jump in value or slope between them."""
    theta = np.linspace(1e-3, math.pi - 1e-3, 5001)
    losses, slopes = np.transpose(
        [
            (loss, dz[0, 0])
            for loss, dz in (ref.combined(np.cos([[t, 1.5]]), np.array([0]), 1.0, (4.0, 0.3, 0.1)) for t in theta)
        ]
    )
    assert np.all(np.diff(losses) > 0) and np.all(slopes <= 0)
    assert np.abs(np.diff(losses)).max() < 5 * (theta[1] - theta[0])
    assert np.abs(np.diff(slopes * np.sin(theta))).max() < 20 * (theta[1] - theta[0])


@pytest.mark.parametrize("with_bias", [False, True])
def test_smoothed_cross_entropy_written_out(with_bias, rng):
    z, target = rng.uniform(-1, 1, (4, 6)), rng.integers(6, size=4)
    bias = rng.standard_normal(6) if with_bias else None
    loss, dz, dbias = ref.smoothed_cross_entropy(z, target, 5.0, 0.3, bias)
    slow = 0.0
    for row, y in zip(z, target, strict=True):
        logits = [5.0 * row[k] + (bias[k] if with_bias else 0.0) for k in range(6)]
        total = math.log(sum(math.exp(v) for v in logits))
        slow += sum((0.7 * (k == y) + 0.3 / 6) * (total - logits[k]) for k in range(6)) / 4
    assert loss == pytest.approx(slow, rel=1e-12)
    numeric = central_difference(lambda a: ref.smoothed_cross_entropy(a, target, 5.0, 0.3, bias)[0], z)
    np.testing.assert_allclose(dz, numeric, rtol=1e-6, atol=1e-8)
    at = np.zeros(6) if bias is None else bias
    numeric = central_difference(lambda a: ref.smoothed_cross_entropy(z, target, 5.0, 0.3, a)[0], at)
    np.testing.assert_allclose(dbias, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name, chosen", [("dsoftmax_b", [1, 4]), ("dsoftmax_k", [0, 3, 5])])
def test_sampled_dsoftmax_written_out(name, chosen, rng):
    z, target = rng.uniform(-1, 1, (5, 7)), np.array([3, 0, 6, 3, 2])
    objective = ref.make_objective(name, 6.0, 0.4, chosen=chosen)
    loss, dz = objective(z, target)
    slow = 0.0
    for i, y in enumerate(target):
        slow += math.log(1 + math.exp(6 * (0.4 - z[i, y]))) / 5
        if name == "dsoftmax_k":
            slow += math.log(1 + sum(math.exp(6 * z[i, k]) for k in chosen if k != y)) / 5
        elif i in chosen:
            slow += math.log(1 + sum(math.exp(6 * z[i, k]) for k in range(7) if k != y)) / len(chosen)
    assert loss == pytest.approx(slow, rel=1e-12)
    np.testing.assert_allclose(dz, central_difference(lambda a: objective(a, target)[0], z), rtol=1e-6, atol=1e-8)
    everything = ref.make_objective(name, 6.0, 0.4)(z, target)
    assert everything[0] == pytest.approx(ref.dsoftmax(z, target, 6.0, 0.4)[0], rel=1e-12)
    np.testing.assert_allclose(everything[1], ref.dsoftmax(z, target, 6.0, 0.4)[1], rtol=1e-12)


@pytest.mark.parametrize("name", TRUE_SLOPES)
def test_weighted_mean(name, rng):
    z, target = rng.uniform(-0.9, 0.9, (4, 6)), np.array([2, 2, 5, 0])
    objective, weights = ref.make_objective(name, **SETTINGS[name]), np.array([0.5, 2.0, 0.0, 1.0])
    loss, dz = ref.weighted(objective, weights)(z, target)
    own = [objective(z[i : i + 1], target[i : i + 1])[0] for i in range(4)]
    assert loss == pytest.approx((0.5 * own[0] + 2 * own[1] + own[3]) / 3.5, rel=1e-12)
    numeric = central_difference(lambda a: ref.weighted(objective, weights)(a, target)[0], z)
    np.testing.assert_allclose(dz, numeric, rtol=1e-6, atol=1e-8)
    assert ref.weighted(objective, np.zeros(4))(z, target)[0] == 0


def test_normalize_and_its_backward(rng):
    x, g = rng.standard_normal((4, 7)), rng.standard_normal((4, 7))
    slow = [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in x]
    np.testing.assert_allclose(ref.normalize(x), slow, rtol=1e-14)
    numeric = central_difference(lambda a: np.sum(ref.normalize(a) * g), x)
    np.testing.assert_allclose(ref.normalize_backward(x, g), numeric, rtol=1e-6, atol=1e-8)


def test_zero_row_stays_zero_and_its_gradient_is_that_of_the_clamp():
    x = np.zeros((1, 3))
    np.testing.assert_array_equal(ref.normalize(x), x)
    np.testing.assert_allclose(ref.normalize_backward(x, np.ones((1, 3))), np.full((1, 3), 1e12))


def test_cosine_logits_against_loops(rng):
    x, w = rng.standard_normal((3, 5)), rng.standard_normal((4, 5))
    slow = [
        [sum(a * b for a, b in zip(xi, wk, strict=True)) / (np.linalg.norm(xi) * np.linalg.norm(wk)) for wk in w]
        for xi in x
    ]
    np.testing.assert_allclose(ref.cosine_logits(x, w), slow, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("B, N, A, d", [(1, 6, 3, 5), (5, 7, 7, 3), (4, 9, 5, 1), (6, 11, 4, 6)])
@pytest.mark.parametrize("name", TRUE_SLOPES)
def test_active_loss_gradients_against_finite_differences(name, B, N, A, d, rng):
    x, w = rng.standard_normal((B, d)), rng.standard_normal((N, d))
    active = np.sort(rng.choice(N, A, replace=False))
    target = rng.integers(A, size=B)
    target[-1] = target[0]  # a class twice in the batch
    objective = ref.make_objective(name, **SETTINGS[name])
    _, dx, dw_rows = ref.active_loss(x, w, target, active, objective)
    numeric_x = central_difference(lambda a: ref.active_loss(a, w, target, active, objective)[0], x)
    numeric_w = central_difference(lambda a: ref.active_loss(x, a, target, active, objective)[0], w)
    np.testing.assert_allclose(dx, numeric_x, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(dw_rows, numeric_w[active], rtol=1e-5, atol=1e-7)
    assert not np.delete(numeric_w, active, axis=0).any()


@pytest.mark.parametrize("name", ref.OBJECTIVES)
def test_full_loss_is_the_active_loss_of_all_classes(name, rng):
    x, w, labels = rng.standard_normal((5, 4)), rng.standard_normal((8, 4)), np.array([3, 3, 0, 7, 1])
    objective = ref.make_objective(name, **SETTINGS[name])
    loss, dx, dw = ref.full_loss(x, w, labels, objective)
    assert loss == pytest.approx(objective(ref.cosine_logits(x, w), labels)[0], rel=1e-14)
    assert dx.shape == x.shape and dw.shape == w.shape
    np.testing.assert_allclose(np.sum(dx * x, axis=1), 0, atol=1e-13)  # length does not matter to a cosine
    np.testing.assert_allclose(np.sum(dw * w, axis=1), 0, atol=1e-13)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda x, w, o: ref.full_loss(x, w, [0, 9], o), ValueError, "labels spans 0..9"),
        (lambda x, w, o: ref.full_loss(x, w, [-1, 0], o), ValueError, "labels spans -1..0"),
        (lambda x, w, o: ref.full_loss(x, w, [0.0, 1.0], o), TypeError, "labels has type float64"),
        (lambda x, w, o: ref.full_loss(x, w, [0], o), ValueError, r"labels has shape \(1,\)"),
        (lambda x, w, o: ref.full_loss(x[:0], w, [], o), ValueError, r"x has shape \(0, 3\)"),
        (lambda x, w, o: ref.full_loss(x[:, :2], w, [0, 1], o), ValueError, "w has 3 columns"),
        (lambda x, w, o: ref.full_loss(x * np.nan, w, [0, 1], o), ValueError, "x contains NaN"),
        (lambda x, w, o: ref.active_loss(x, w, [0, 1], [2, 2], o), ValueError, "distinct"),
        (lambda x, w, o: ref.active_loss(x, w, [0, 0], [], o), ValueError, "at least one"),
        (lambda x, w, o: ref.make_objective("hinge", 1.0), ValueError, "objective is 'hinge'"),
        (lambda x, w, o: ref.make_objective("cosface", 1.0), ValueError, "margin is missing"),
        (lambda x, w, o: ref.make_objective("cross_entropy", 1.0, 0.1), ValueError, "takes none"),
        (lambda x, w, o: ref.make_objective("cosface", -1.0, 0.1), ValueError, "scale is -1.0"),
    ],
)
def test_bad_input_gets_one_sentence(call, error, message):
    x, w = np.ones((2, 3)), np.ones((4, 3))
    with pytest.raises(error, match=message) as caught:
        call(x, w, ref.make_objective("cross_entropy", 8.0))
    assert "\n" not in str(caught.value)
