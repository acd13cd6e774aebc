"""objectives.py against the float64 reference, and its gradients against finite differences."""

import math

import numpy as np
import pytest
import torch

from annsoftmax_ref import ArcFace, CosFace, CrossEntropy, DSoftmax, make_objective
from annsoftmax_ref import reference as ref

CASES = [
    ("cross_entropy", 16.0, None),
    ("cosface", 16.0, 0.2),
    ("arcface", 16.0, 0.5),
    ("dsoftmax", 16.0, 0.9),
    ("arcface", 4.0, 2.5),
    ("dsoftmax", 32.0, 0.3),
]


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


@pytest.mark.parametrize("name, scale, margin", CASES)
def test_gradcheck(name, scale, margin):
    z = cosines(4, 6).requires_grad_()
    target = torch.tensor([0, 5, 5, 2])
    assert torch.autograd.gradcheck(lambda z: make_objective(name, scale, margin)(z, target), (z,))


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
    ],
)
def test_bad_arguments_get_one_clear_sentence(make, error, words):
    with pytest.raises(error, match=words):
        make()
