"""The autograd node over sums of logits: kernels against plain torch, groups, far columns, graphs that are retained."""

import pytest
import torch

from annsoftmax_ref import backend
from annsoftmax_ref.active_sets import FarClasses
from annsoftmax_ref.logit_sums import logit_sums


def inputs(dtype, groups=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    unit = lambda t: torch.nn.functional.normalize(t, dim=-1).to(dtype).requires_grad_()  # noqa: E731
    x, directions = unit(normal(groups, 5, 8)), unit(normal(groups, 30, 8))
    targets = torch.randint(-1, 30, (groups, 5), generator=g)
    offset = normal(groups, 30).to(dtype).requires_grad_()
    far = FarClasses(unit(normal(4, 8)).detach() * 0.5, normal(groups, 4).to(dtype))
    return x, directions, targets, offset, far


def gradients(x, directions, targets, offset, far):
    own, others = logit_sums(x, directions, targets, 20.0, offset, far)
    (own.sin() + others.cos()).sum().backward()
    return own.detach(), others.detach(), x.grad, directions.grad, offset.grad


@pytest.mark.parametrize("with_far", [False, True])
@pytest.mark.parametrize("kernels", [True, False])
def test_against_autograd_in_float64(kernels, with_far):
    x, directions, targets, offset, far = inputs(torch.float64)
    logits = 20.0 * x @ directions.mT + offset.unsqueeze(1)
    columns = torch.arange(30) == targets.unsqueeze(-1)
    rest = logits.masked_fill(columns, -torch.inf)
    if with_far:
        rest = torch.cat([rest, 20.0 * x @ far.means.T + far.offsets.unsqueeze(1)], dim=-1)
    own, others = (logits * columns).sum(-1), rest.logsumexp(-1)
    (own.sin() + others.cos()).sum().backward()
    expected = own.detach(), others.detach(), x.grad, directions.grad, offset.grad
    dtype = torch.float32 if kernels else torch.float64
    tolerance = 2e-3 if kernels else 1e-12  # of gradients of sines of numbers near 20, in float32
    args = inputs(dtype)
    with backend.use("cpp" if kernels else "torch"):
        found = gradients(*args[:4], args[4] if with_far else None)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_a_graph_that_is_retained_gives_the_same_gradient_twice():
    x, directions, targets, offset, far = inputs(torch.float32)
    own, others = logit_sums(x, directions, targets, 20.0, offset, far)
    total = (own + others).sum()
    first = torch.autograd.grad(total, (x, directions, offset), retain_graph=True)
    second = torch.autograd.grad(total, (x, directions, offset))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_no_columns_leave_nothing():
    x, directions, _, _, _ = inputs(torch.float32)
    own, others = logit_sums(x, directions[:, :0], torch.full((2, 5), -1), 20.0, None, None)
    assert (own == 0).all() and (others == -torch.inf).all()
    (own.sum() + others.exp().sum()).backward()
    assert (x.grad == 0).all()
