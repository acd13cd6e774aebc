"""objectives/ against the float64 reference, and its gradients against finite differences."""

import math

import numpy as np
import pytest
import torch

from annsoftmax_ref import (
    ArcFace,
    CombinedMargin,
    CosFace,
    CrossEntropy,
    DSoftmax,
    DSoftmaxB,
    DSoftmaxK,
    InsightFaceArcFace,
    from_degrees,
    make_objective,
)
from annsoftmax_ref import reference as ref

CASES = [
    ("cross_entropy", 16.0, None),
    ("cosface", 16.0, 0.2),
    ("arcface", 16.0, 0.5),
    ("dsoftmax", 16.0, 0.9),
    ("arcface", 4.0, 2.5),
    ("dsoftmax", 32.0, 0.3),
    ("arcface_insightface", 16.0, 0.5),
    ("arcface_insightface", 4.0, 2.5),
    ("combined", 16.0, (1.0, 0.3, 0.2)),
    ("combined", 4.0, (3.5, 2.5, 0.1)),
    ("combined", 16.0, (0.9, 0.0, 0.0)),
    ("dsoftmax_b", 16.0, 0.9),
    ("dsoftmax_k", 16.0, 0.3),
]
TRUE_SLOPES = [case for case in CASES if case[0] != "arcface_insightface"]


def cosines(batch, classes, seed=0):
    return torch.rand(batch, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("name, scale, margin", CASES)
@pytest.mark.parametrize("batch, classes", [(1, 1), (1, 7), (5, 3), (16, 33)])
def test_loss_and_gradient_equal_the_reference(name, scale, margin, batch, classes):
    z = cosines(batch, classes).requires_grad_()
    target = torch.randint(classes, (batch,), generator=torch.Generator().manual_seed(1))
    loss = make_objective(name, scale, margin)(z, target).mean()
    loss.backward()
    expected, dz = ref.make_objective(name, scale, margin)(z.detach().numpy(), target.numpy())
    assert abs(loss.item() - expected) < 1e-10 * max(1, abs(expected))
    np.testing.assert_allclose(z.grad.numpy(), dz, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name, scale, margin", TRUE_SLOPES)
@pytest.mark.parametrize("with_offset", [False, True])
def test_gradcheck(name, scale, margin, with_offset):
    z = cosines(4, 6).requires_grad_()
    target = torch.tensor([0, 5, 5, 2])
    offset = torch.linspace(-1, 2, 6, dtype=torch.float64, requires_grad=True) if with_offset else None
    assert torch.autograd.gradcheck(make_objective(name, scale, margin), (z, target, offset))


@pytest.mark.parametrize("with_offset", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_label_smoothing_equals_the_reference_and_torch(smoothing, with_offset):
    z, target = cosines(5, 7).requires_grad_(), torch.tensor([0, 6, 6, 2, 1])
    offset = torch.linspace(-1, 2, 7, dtype=torch.float64, requires_grad=True) if with_offset else None
    objective = CrossEntropy(9.0, label_smoothing=smoothing)
    objective(z, target, offset).mean().backward()
    bias = None if offset is None else offset.detach().numpy()
    loss, dz, dbias = ref.smoothed_cross_entropy(z.detach().numpy(), target.numpy(), 9.0, smoothing, bias)
    logits = 9.0 * z.detach() + (0 if offset is None else offset.detach())
    assert torch.nn.functional.cross_entropy(logits, target, label_smoothing=smoothing).item() == pytest.approx(loss)
    assert objective(z, target, offset).mean().item() == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(z.grad.numpy(), dz, rtol=1e-10, atol=1e-12)
    if with_offset:
        np.testing.assert_allclose(offset.grad.numpy(), dbias, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(objective, (z, target, offset))


def test_insightface_has_arcfaces_value_and_a_straight_through_gradient():
    """The true slope of the target is the straight one times sin(theta + m) / sin(theta); past pi the value differs."""
    margin, m = from_degrees(30), math.radians(30)
    theta = torch.linspace(0.05, math.pi - m - 0.01, 50, dtype=torch.float64)
    z = theta.cos().requires_grad_()
    true, straight = ArcFace(5.0, margin).target_cosine(z), InsightFaceArcFace(5.0, margin).target_cosine(z)
    torch.testing.assert_close(straight, true)
    torch.testing.assert_close(straight, (theta + m).cos())
    (slope,) = torch.autograd.grad(true.sum(), z, retain_graph=True)
    (one,) = torch.autograd.grad(straight.sum(), z)
    assert torch.equal(one, torch.ones_like(one))
    torch.testing.assert_close(slope, (theta + m).sin() / theta.sin())
    past = torch.tensor([math.pi - m / 2], dtype=torch.float64)
    torch.testing.assert_close(InsightFaceArcFace(5.0, margin).target_cosine(past.cos()), (past + m).cos())
    torch.testing.assert_close(ArcFace(5.0, margin).target_cosine(past.cos()), -2 - (past + m).cos())


def test_insightface_is_its_own_code():
    """recognition/arcface_torch/losses.py at 7fadd42, the steps of class ArcFace's forward."""
    target = torch.arange(6)
    z = (0.99 * cosines(6, 9)).requires_grad_()
    logits = z * 1.0
    own = logits[target, target]
    with torch.no_grad():
        own.arccos_()
        logits.arccos_()
        logits[target, target] = own + 0.5
        logits.cos_()
    torch.nn.functional.cross_entropy(logits * 8.0, target).backward()
    theirs, z.grad = z.grad, None
    InsightFaceArcFace(8.0, 0.5)(z, target).mean().backward()
    torch.testing.assert_close(z.grad, theirs, rtol=1e-10, atol=1e-14)


def test_combined_margin_is_the_three_it_combines():
    z, target = cosines(40, 9).requires_grad_(), torch.arange(40) % 9
    pairs = [
        (CombinedMargin(8.0, 1, 2.0, 0), ArcFace(8.0, 2.0)),
        (CombinedMargin(8.0, 1, 0, 0.4), CosFace(8.0, 0.4)),
        (CombinedMargin(8.0, 1, 0, 0), CrossEntropy(8.0)),
    ]
    for combined, other in pairs:
        losses = [objective(z, target) for objective in (combined, other)]
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*[torch.autograd.grad(loss.sum(), z)[0] for loss in losses])


@pytest.mark.parametrize("m1", [1.0, 1.35, 4.0])
def test_combined_margin_falls_all_the_way(m1):
    theta = torch.linspace(0, math.pi, 4001, dtype=torch.float32)
    psi = CombinedMargin(1.0, m1, 0.3, 0.1).target_cosine(theta.double().cos())
    assert (psi[1:-1].diff() < 0).all() and psi.diff().abs().max() < 1.1 * m1 * (theta[1] - theta[0])


@pytest.mark.parametrize("end", [-1.0, 1.0])
def test_gradients_are_finite_at_the_ends(end):
    for name, scale, margin in CASES:
        z = torch.tensor([[end, 0.3]], requires_grad=True)
        make_objective(name, scale, margin)(z, torch.tensor([0])).sum().backward()
        assert torch.isfinite(z.grad).all(), name


def unit(rows, columns, seed):
    return torch.nn.functional.normalize(
        torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1
    )


@pytest.mark.parametrize("share", [0.01, 0.3, 0.8])
@pytest.mark.parametrize("name", ["dsoftmax_b", "dsoftmax_k"])
@pytest.mark.parametrize("batch, classes", [(1, 1), (9, 13)])
def test_sampled_dsoftmax_equals_the_reference(name, share, batch, classes):
    x, w = unit(batch, 4, 1).requires_grad_(), unit(classes, 4, 2).requires_grad_()
    target, offset = torch.randint(classes, (batch,)), torch.randn(classes, dtype=torch.float64)
    objective = make_objective(name, 7.0, 0.4, share=share)
    chosen = objective.draw(batch if name == "dsoftmax_b" else classes, torch.Generator().manual_seed(5))
    objective.loss_of(x, w, target, None, torch.Generator().manual_seed(5)).mean().backward()
    z = (x @ w.T).detach().numpy()
    loss, dz = ref.make_objective(name, 7.0, 0.4, chosen=chosen.numpy())(z, target.numpy())
    again = objective.loss_of(x, w, target, None, torch.Generator().manual_seed(5))
    assert again.mean().item() == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), dz @ w.detach().numpy(), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(w.grad.numpy(), dz.T @ x.detach().numpy(), rtol=1e-10, atol=1e-12)
    # An offset moves the other classes' logits, here drawn as before.
    moved = objective.loss_of(x, w, target, offset, torch.Generator().manual_seed(5)).detach().numpy()
    columns = chosen.numpy() if name == "dsoftmax_k" else np.arange(classes)
    for i, y in enumerate(target.tolist()):
        push = sum(math.exp(7 * z[i, k] + offset[k]) for k in columns if k != y)
        expected = math.log(1 + math.exp(7 * (0.4 - z[i, y])))
        if name == "dsoftmax_k" or i in chosen:
            expected += math.log(1 + push) * (1 if name == "dsoftmax_k" else batch / len(chosen))
        assert moved[i] == pytest.approx(expected, rel=1e-10)

    def fixed(x, w):
        return objective.loss_of(x, w, target, offset, torch.Generator().manual_seed(5))

    assert torch.autograd.gradcheck(fixed, (x, w))
    # In eval mode both are D-Softmax.
    exact = DSoftmax(7.0, 0.4)(x @ w.T, target, offset)
    torch.testing.assert_close(objective.eval().loss_of(x, w, target, offset), exact)


def test_the_push_of_a_part_of_the_samples_is_right_on_average():
    x, w, target = unit(12, 4, 1), unit(9, 4, 2), torch.arange(12) % 9
    objective, generator = DSoftmaxB(6.0, 0.5, share=0.25), torch.Generator().manual_seed(0)
    draws = torch.stack([objective.loss_of(x, w, target, None, generator).mean() for _ in range(2000)])
    exact = DSoftmax(6.0, 0.5)(x @ w.T, target).mean()
    assert abs(draws.mean() - exact) < 3 * draws.std() / len(draws) ** 0.5


@pytest.mark.parametrize("kind, shape", [(DSoftmaxB, (10, 64)), (DSoftmaxK, (40, 16))])
def test_the_product_of_a_sampled_dsoftmax_is_smaller(kind, shape, monkeypatch):
    from annsoftmax_ref.objectives import dsoftmax

    made = []
    monkeypatch.setattr(dsoftmax, "cosines", lambda x, w: made.append((len(x), len(w))) or x @ w.T)
    kind(share=0.25).loss_of(unit(40, 4, 1), unit(64, 4, 2), torch.arange(40), None, torch.Generator().manual_seed(0))
    assert made == [shape]


def test_arcface_adds_the_margin_to_the_angle_and_goes_on_smoothly():
    margin = 0.5
    theta = torch.linspace(0.05, math.pi - 0.05, 2001, dtype=torch.float64)
    psi = ArcFace(1.0, margin).target_cosine(theta.cos())
    below = theta <= math.pi - margin
    torch.testing.assert_close(psi[below], (theta[below] + margin).cos())
    assert (psi.diff() < 0).all()  # falls all the way
    assert psi.diff().abs().max() < 2 * (theta[1] - theta[0])  # and never jumps


def test_margins_raise_the_loss():
    z, target = cosines(8, 20), torch.arange(8)
    plain = CrossEntropy(10.0)(z, target)
    assert (CosFace(10.0, 0.2)(z, target) > plain).all()
    assert (ArcFace(10.0, 0.2)(z, target) > plain).all()


def test_dsoftmax_decouples_the_own_class():
    """Leaving classes out does not change the pull to the own class, unlike in cross entropy."""
    target = torch.zeros(3, dtype=torch.int64)
    for objective, same in ((DSoftmax(8.0), True), (CrossEntropy(8.0), False)):
        grads = []
        for classes in (10, 4):
            z = cosines(3, 10)[:, :classes].clone().requires_grad_()
            objective(z, target).sum().backward()
            grads.append(z.grad[:, 0])
        assert torch.allclose(*grads) is same


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: make_objective("softmax"), ValueError, "objective is 'softmax'"),
        (lambda: CosFace(scale=0.0), ValueError, "scale is 0.0"),
        (lambda: CosFace(margin=-0.1), ValueError, "margin is -0.1"),
        (lambda: ArcFace(margin=28.6), ValueError, "radians"),
        (lambda: CosFace(scale=float("nan")), TypeError, "scale is nan"),
        (lambda: make_objective("cross_entropy", margin=0.1), ValueError, "margin is 0.1"),
        (lambda: make_objective("combined", margin=0.1), ValueError, "margin is 0.1; combined takes three"),
        (lambda: CrossEntropy(label_smoothing=1.0), ValueError, "label_smoothing is 1.0"),
        (lambda: CrossEntropy(label_smoothing="0.1"), TypeError, "label_smoothing is '0.1'"),
        (lambda: InsightFaceArcFace(margin=28.6), ValueError, "radians"),
        (lambda: CombinedMargin(m1=0), ValueError, "m1 is 0.0"),
        (lambda: CombinedMargin(m2=28.6), ValueError, "m2 is 28.6; it is in radians"),
        (lambda: CombinedMargin(m3=-1), ValueError, "m3 is -1.0"),
        (lambda: DSoftmaxB(share=0), ValueError, "share is 0"),
        (lambda: DSoftmaxK(share=1.5), ValueError, "share is 1.5"),
        (lambda: from_degrees("30"), TypeError, "degrees is '30'"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(make, error, words):
    with pytest.raises(error, match=words):
        make()
