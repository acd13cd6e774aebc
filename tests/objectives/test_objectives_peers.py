"""The objectives against others' code: pytorch-metric-learning, and D-Softmax transcribed from its formula.

pytorch-metric-learning (PML) has CosFace, ArcFace (margin in degrees), SphereFace and the normalised softmax. Where it
defines something else, the tests say what: ArcFace past theta = pi - m, and the scale of SphereFace.
"""

import math

import pytest
import torch

from annsoftmax_ref import CombinedMargin, CosFace, CrossEntropy, SoftmaxHead, from_degrees, make_objective

B, N, D = 24, 11, 6
MISSING = "pytorch-metric-learning is not installed: pip install -e '.[peers]'"


@pytest.fixture(scope="module")
def peers():
    return pytest.importorskip("pytorch_metric_learning.losses", reason=MISSING)


def batch(target_angles=None):
    """x [B, d], w [N, d] and labels [B]; target_angles (low, high): x is turned to such angles with its own class."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(B, D, generator=generator, dtype=torch.float64)
    w = torch.randn(N, D, generator=generator, dtype=torch.float64)
    labels = torch.randint(N, (B,), generator=generator)
    if target_angles is not None:
        own = torch.nn.functional.normalize(w[labels], dim=1)
        across = torch.nn.functional.normalize(x - (x * own).sum(1, keepdim=True) * own, dim=1)
        theta = torch.linspace(*target_angles, B, dtype=torch.float64).unsqueeze(1)
        x = 1.7 * (theta.cos() * own + theta.sin() * across)
    return x.requires_grad_(), w, labels


def ours(objective, x, w, labels):
    """Loss, d x and d w by our head."""
    head = SoftmaxHead(N, D, None, objective, dtype=torch.float64)
    head.weight.data.copy_(w)
    loss = head(x, labels)
    return loss.detach(), *torch.autograd.grad(loss, [x, head.weight])


def theirs(loss_function, x, w, labels):
    loss_function.W = torch.nn.Parameter(w.T.clone())
    loss = loss_function(x, labels)
    dx, dw = torch.autograd.grad(loss, [x, loss_function.W])
    return loss.detach(), dx, dw.T


def same(mine, other):
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_cross_entropy_is_their_normalised_softmax(peers):
    data = batch()
    same(ours(CrossEntropy(16.0), *data), theirs(peers.NormalizedSoftmaxLoss(N, D, temperature=1 / 16), *data))


@pytest.mark.parametrize("objective", [CosFace(16.0, 0.35), CombinedMargin(16.0, 1.0, 0.0, 0.35)])
def test_cosface(peers, objective):
    data = batch()
    same(ours(objective, *data), theirs(peers.CosFaceLoss(N, D, margin=0.35, scale=16), *data))


@pytest.mark.parametrize("name", ["arcface", "combined"])
def test_arcface_up_to_pi(peers, name):
    """Loss and gradient, margins in degrees there and in radians here."""
    margin = from_degrees(28.6)
    data = batch(target_angles=(0.05, math.pi - margin - 0.05))
    objective = make_objective(name, 16.0, margin if name == "arcface" else (1.0, margin, 0.0))
    same(ours(objective, *data), theirs(peers.ArcFaceLoss(N, D, margin=28.6, scale=16), *data))


def test_arcface_past_pi_is_another_continuation(peers):
    """Theirs is cos(theta) - m sin(m) there, which jumps at pi - m; ours, -2 - cos(theta + m), is lower and joins."""
    margin = from_degrees(28.6)
    data = batch(target_angles=(math.pi - margin + 0.01, math.pi - 0.01))
    mine, other = (
        ours(make_objective("arcface", 16.0, margin), *data)[0],
        theirs(peers.ArcFaceLoss(N, D, margin=28.6, scale=16), *data)[0],
    )
    x, w, labels = data
    z = torch.nn.functional.normalize(x.detach(), dim=1) @ torch.nn.functional.normalize(w, dim=1).T
    logits = 16 * z
    for formula, loss in ((lambda c: c - margin * math.sin(margin), other), (None, mine)):
        own = z[torch.arange(B), labels]
        logits[torch.arange(B), labels] = 16 * (formula(own) if formula else -2 - (own.acos() + margin).cos())
        assert torch.nn.functional.cross_entropy(logits, labels).item() == pytest.approx(loss.item(), rel=1e-9)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_sphereface_is_the_combined_margin_with_m1(peers):
    """Theirs multiplies the logits by |x|, as SphereFace does; on embeddings of length 1 that is our scale."""
    x, w, labels = batch(target_angles=(0.05, math.pi - 0.05))
    x = torch.nn.functional.normalize(x.detach(), dim=1).requires_grad_()
    mine = ours(CombinedMargin(16.0, 4.0, 0.0, 0.0), x, w, labels)
    other = theirs(peers.SphereFaceLoss(N, D, margin=4, scale=16), x, w, labels)
    # Their gradient has a part along x, from the factor |x|; ours has none.
    dx = other[1] - (other[1] * x.detach()).sum(1, keepdim=True) * x.detach()
    same(mine, (other[0], dx, other[2]))


@pytest.mark.parametrize("name", ["dsoftmax", "dsoftmax_b", "dsoftmax_k"])
def test_dsoftmax_by_loops(name):
    """He et al., AAAI 2020, written out with scalars; there is none in PML. B and K, in eval mode, are the same."""
    x, w, labels = batch()
    weight = w.clone().requires_grad_()
    eps, total = math.exp(9.0 * 0.6), 0.0  # eps = e^{s d}
    for i in range(B):
        z = [x[i] @ weight[k] / (x[i].norm() * weight[k].norm()) for k in range(N)]
        intra = torch.log(1 + eps / torch.exp(9.0 * z[labels[i]]))
        inter = torch.log(1 + sum(torch.exp(9.0 * z[k]) for k in range(N) if k != labels[i]))
        total = total + (intra + inter) / B
    expected = total.detach(), *torch.autograd.grad(total, [x, weight])
    head = SoftmaxHead(N, D, None, make_objective(name, 9.0, 0.6), dtype=torch.float64).eval()
    head.weight.data.copy_(w)
    loss = head(x, labels)
    same((loss.detach(), *torch.autograd.grad(loss, [x, head.weight])), expected)
