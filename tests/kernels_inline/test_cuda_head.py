"""head.cu and softmax.cu: every version against float64, and no worse than plain torch in the same precision."""

import math

import pytest
import torch
import torch.nn.functional as F
from cuda_runners import RUNNERS, is_poisoned, poisoned, runner, versions

from annsoftmax_ref import make_objective
from kernels_inline.head_ops import KINDS

MARGINS = {"cross_entropy": None, "cosface": 0.2, "arcface": 0.5, "dsoftmax": 0.9}
DIMS = [1, 31, 33, 64, 100, 130, 516]
halves = pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])


@pytest.fixture(params=RUNNERS)
def head(request):
    return runner(request.param, "head.cu")


@pytest.fixture(params=RUNNERS)
def softmax(request):
    return runner(request.param, "softmax.cu")


def version_of(name, file="head.cu"):
    return pytest.mark.parametrize("version", versions(file, name))


def type_of(half):
    return torch.bfloat16 if half else torch.float32


def error(x, exact):
    return float((x.double() - exact).norm())


def assert_not_worse(ours, torchs, exact, size=None):
    """Ours is as near to float64 as plain torch is, or within the rounding of results of this size."""
    size = float(exact.norm()) if size is None else size
    assert error(ours, exact) <= max(error(torchs, exact), 2e-7 * size) + 1e-12


def assert_rounded_once(ours, exact):
    """bfloat16 has 8 bits, so rounding is 2^-8 of an element at most; float32's error decides where two are near."""
    assert ((ours.double() - exact).abs() <= exact.abs() * (2**-8 + 2e-5) + 1e-37).all()


# -------------------------------------------------------------------------------------------------- gather_normalise


def weights(count, dim):
    weight, ids = torch.randn(21, dim) * 3, torch.randint(21, (count,))  # some ids repeat
    weight[2], weight[3], weight[4] = 0, weight[3] * 1e15, weight[4] * 1e-15
    ids[: min(count, 3)] = torch.tensor([4, 2, 3])[:count]
    return weight, ids


@version_of("gather_normalise")
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("count", [1, 21])
@halves
def test_gather_normalise_is_not_worse_than_torch(head, version, dim, count, half):
    weight, ids = weights(count, dim)
    unit, norms = poisoned(count, dim, dtype=type_of(half)), poisoned(count, dtype=torch.float32)
    assert head("gather_normalise_v", version, weight, 21, dim, ids, count, half, unit, norms) == 0
    lengths = weight[ids].double().norm(dim=1).clamp(min=1e-12)
    assert ((norms - lengths).abs() <= 1.5e-7 * lengths).all()
    exact = weight[ids].double() / lengths[:, None]
    if half:
        assert_rounded_once(unit, exact)
    else:
        assert_not_worse(unit, F.normalize(weight[ids], dim=1), exact)


@version_of("normalise_backward")
@pytest.mark.parametrize("dim", DIMS)
@halves
def test_normalise_backward_is_not_worse_than_torch(head, version, dim, half):
    weight, ids = torch.randn(21, dim) * 3, torch.randint(21, (21,))
    norms, slope = weight[ids].norm(dim=1), torch.randn(21, dim).to(type_of(half))
    grad = poisoned(21, dim, dtype=torch.float32) if half else slope.clone()
    arguments = grad, slope if half else None, weight, 21, dim, ids, 21, norms
    assert head("normalise_backward_v", version, *arguments) == 0
    exact, plain = (backward(weight[ids].to(t), slope.to(t)) for t in (torch.float64, torch.float32))
    # With one dimension the gradient is 0 but for rounding: the parts along and across the row cancel.
    assert_not_worse(grad, plain, exact, size=float((slope.double() / norms[:, None]).norm()))


def backward(rows, slope):
    rows = rows.clone().requires_grad_()
    F.normalize(rows, dim=1).backward(slope)
    return rows.grad


@version_of("normalise_backward")
@pytest.mark.parametrize("dim", [10, 12])
def test_the_gradient_of_a_row_at_the_clamp_is_only_divided(head, version, dim):
    weight, ids, grad = torch.zeros(3, dim), torch.tensor([1, 2]), torch.randn(2, dim)
    weight[2] = 1e-14
    expected = grad / 1e-12
    norms = torch.full((2,), 1e-12)
    assert head("normalise_backward_v", version, grad, None, weight, 3, dim, ids, 2, norms) == 0
    assert torch.equal(grad, expected)


# -------------------------------------------------------------------------------------------------- add_rows


@version_of("add_rows")
@pytest.mark.parametrize("dim", [1, 33, 64, 100])
@pytest.mark.parametrize("count", [1, 13, 30, 0])
@halves
def test_add_rows_changes_these_rows_and_no_others(head, version, dim, count, half):
    total, part = torch.randn(30, dim), torch.randn(count, dim).to(type_of(half))
    places = torch.randperm(30)[:count].sort().values
    expected = total.clone()
    expected[places] += part.float()
    assert head("add_rows_v", version, total, places, part, half, count, 30, dim) == 0
    assert torch.equal(total, expected)


# -------------------------------------------------------------------------------------------------- margin_softmax


def by_autograd(cosine, target, name, scale, weight):
    """Losses and gradient by annsoftmax_ref.objectives, in the precision of the cosines."""
    cosine = cosine.clone().requires_grad_()
    losses = make_objective(name, scale, MARGINS[name])(cosine, target)
    (weight * losses.sum()).backward()
    return losses.detach(), cosine.grad


def by_kernel(call, version, cosine, target, name, scale, weight):
    gradient, losses = cosine.clone(), poisoned(len(cosine), dtype=torch.float32)
    arguments = target, KINDS[name], float(scale), MARGINS[name] or 0.0, float(weight), losses
    half = cosine.dtype == torch.bfloat16
    assert call("margin_softmax_v", version, gradient, half, *cosine.shape, *arguments) == 0
    return losses, gradient


def sampled(b, count, half=False):
    cosine, target = (torch.rand(b, count) * 2 - 1).to(type_of(half)), torch.randint(count, (b,))
    target[0], target[-1] = 0, count - 1  # at the edges
    return cosine, target


@version_of("margin_softmax", "softmax.cu")
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("scale", [1.0, 20.0, 64.0])
def test_margin_softmax_is_not_worse_than_torch_in_float32(softmax, version, name, scale):
    cosine, target = sampled(4, 2501)
    losses, gradient = by_kernel(softmax, version, cosine, target, name, scale, 1 / 4)
    exact, plain = (by_autograd(c, target, name, scale, 1 / 4) for c in (cosine.double(), cosine))
    assert_not_worse(losses, plain[0], exact[0])
    assert_not_worse(gradient, plain[1], exact[1])


@version_of("margin_softmax", "softmax.cu")
@pytest.mark.parametrize("count", [1, 2, 7, 31, 32, 64, 129, 1000])
@halves
def test_margin_softmax_for_any_size(softmax, version, count, half):
    for name in KINDS:
        cosine, target = sampled(3, count, half)
        if count > 40:
            cosine = (cosine * 2).round() / 2  # many equal cosines, -1 and 1 among them
            cosine = cosine.clamp(-0.98, 0.98) if name == "arcface" else cosine  # at +-1 its slope is infinite
        losses, gradient = by_kernel(softmax, version, cosine, target, name, 20.0, 0.5)
        exact_losses, exact = by_autograd(cosine.double(), target, name, 20.0, 0.5)
        torch.testing.assert_close(losses.double(), exact_losses, rtol=1e-6, atol=1e-9)
        if half:
            assert_rounded_once(gradient, exact)
        else:
            torch.testing.assert_close(gradient.double(), exact, rtol=1e-5, atol=1e-9)


@version_of("margin_softmax", "softmax.cu")
@pytest.mark.parametrize("place", range(0, 24, 5))
@halves
def test_a_target_anywhere_in_a_row_that_begins_anywhere(softmax, version, place, half):
    cosine, _ = sampled(9, 27, half)  # rows of 54 or 108 bytes
    target = torch.full((9,), place)
    losses, gradient = by_kernel(softmax, version, cosine, target, "cosface", 30.0, 1.0)
    exact_losses, exact = by_autograd(cosine.double(), target, "cosface", 30.0, 1.0)
    torch.testing.assert_close(losses.double(), exact_losses, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(gradient.double(), exact, rtol=2**-8 if half else 1e-5, atol=1e-9)


@version_of("margin_softmax", "softmax.cu")
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("extreme", [-1.0, 1.0, 1.0000001])
def test_cosines_at_the_ends_of_their_range_give_what_float64_gives(softmax, version, name, extreme):
    cosine = torch.full((2, 70), extreme)
    cosine[1, 5] = -extreme
    target = torch.tensor([3, 5])
    losses, gradient = by_kernel(softmax, version, cosine, target, name, 64.0, 1.0)
    exact_losses, exact = by_autograd(cosine.double(), target, name, 64.0, 1.0)
    torch.testing.assert_close(losses.double(), exact_losses, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-5, atol=1e-12)


@version_of("margin_softmax", "softmax.cu")
@pytest.mark.parametrize("scale", [1e4, 1e8])
@halves
def test_huge_scales_overflow_nowhere(softmax, version, scale, half):
    cosine, target = sampled(3, 90, half)
    target[1] = cosine[1].argmax()
    for name in ("cross_entropy", "cosface", "dsoftmax"):
        losses, gradient = by_kernel(softmax, version, cosine, target, name, scale, 1.0)
        exact_losses, exact = by_autograd(cosine.double(), target, name, scale, 1.0)
        torch.testing.assert_close(losses.double(), exact_losses, rtol=1e-6, atol=1e-6 * scale)
        assert gradient.isfinite().all()
        torch.testing.assert_close(gradient.double(), exact, rtol=2**-7, atol=1e-3 * scale)


@version_of("margin_softmax", "softmax.cu")
@pytest.mark.parametrize("ascending", [False, True])
def test_cosines_in_order_so_that_the_largest_comes_last_or_first(softmax, version, ascending):
    cosine = torch.linspace(-1, 1, 700).repeat(2, 1)
    cosine = cosine if ascending else cosine.flip(1).contiguous()
    target = torch.tensor([0, 699])
    losses, gradient = by_kernel(softmax, version, cosine, target, "cross_entropy", 64.0, 1.0)
    exact_losses, exact = by_autograd(cosine.double(), target, "cross_entropy", 64.0, 1.0)
    torch.testing.assert_close(losses.double(), exact_losses, rtol=3e-7, atol=1e-12)
    torch.testing.assert_close(gradient.double(), exact, rtol=2e-5, atol=1e-12)


@version_of("margin_softmax", "softmax.cu")
@pytest.mark.parametrize("count", [100, 203])
def test_a_masked_column_gets_no_gradient_and_a_nan_is_not_hidden(softmax, version, count):
    cosine, target = sampled(3, count)
    target[:] = 0
    cosine[0, 7], cosine[1, 50], cosine[2, 1:] = -math.inf, math.nan, -math.inf
    losses, gradient = by_kernel(softmax, version, cosine, target, "cosface", 20.0, 1.0)
    assert gradient[0, 7] == 0 and gradient[0].isfinite().all() and losses[0].isfinite()
    assert losses[1].isnan() and gradient[1].isnan().all()
    assert losses[2].abs() < 1e-15 and (gradient[2] == 0).all()


@version_of("margin_softmax", "softmax.cu")
def test_small_losses_do_not_cancel(softmax, version):
    cosine = torch.full((1, 500), -1.0)
    cosine[0, 3] = 1.0
    losses, gradient = by_kernel(softmax, version, cosine, torch.tensor([3]), "cross_entropy", 16.0, 1.0)
    expected = 499 * math.exp(-32)  # 6e-12; 1 - p_y in float32 would be 0
    assert float(losses) == pytest.approx(expected, rel=1e-4)
    assert float(gradient[0, 3]) == pytest.approx(-16 * expected, rel=1e-5)


# -------------------------------------------------------------------------------------------------- launchers


def test_the_launchers_of_the_ops_are_the_last_versions(head, softmax):
    weight, ids = torch.randn(9, 64), torch.randint(9, (5,))
    units = [poisoned(5, 64, dtype=torch.float32) for _ in range(2)]
    norms = [poisoned(5, dtype=torch.float32) for _ in range(2)]
    assert head("gather_normalise", weight, 9, 64, ids, 5, False, units[0], norms[0]) == 0
    assert head("gather_normalise_v", 3, weight, 9, 64, ids, 5, False, units[1], norms[1]) == 0
    assert torch.equal(*units) and torch.equal(*norms)
    grads = [units[0].clone(), units[0].clone()]
    assert head("normalise_backward", grads[0], None, weight, 9, 64, ids, 5, norms[0]) == 0
    assert head("normalise_backward_v", 3, grads[1], None, weight, 9, 64, ids, 5, norms[0]) == 0
    assert torch.equal(*grads)
    total = weight.clone()
    assert head("add_rows", total, torch.arange(5), units[0], False, 5, 9, 64) == 0
    assert torch.equal(total, torch.cat([weight[:5] + units[0], weight[5:]]))
    cosine, target = sampled(3, 50)
    expected = by_kernel(softmax, 3, cosine, target, "cosface", 20.0, 0.1)
    losses, margin = poisoned(3, dtype=torch.float32), MARGINS["cosface"]
    assert softmax("margin_softmax", cosine, False, 3, 50, target, KINDS["cosface"], 20.0, margin, 0.1, losses) == 0
    assert torch.equal(losses, expected[0]) and torch.equal(cosine, expected[1])


def test_nothing_to_do_and_a_version_that_is_not_there_change_nothing(head, softmax):
    weight, none = torch.randn(4, 8), torch.empty(0, dtype=torch.int64)
    unit, norms = poisoned(1, 8, dtype=torch.float32), poisoned(1, dtype=torch.float32)
    assert head("gather_normalise", weight, 4, 8, none, 0, False, unit, norms) == 0
    assert head("gather_normalise_v", 4, weight, 4, 8, torch.tensor([1]), 1, False, unit, norms) == 100
    assert softmax("margin_softmax", unit, False, 0, 8, none, 0, 1.0, 0.0, 1.0, norms) == 0
    assert softmax("margin_softmax_v", 0, unit, False, 1, 8, torch.tensor([1]), 0, 1.0, 0.0, 1.0, norms) == 100
    assert is_poisoned(unit) and is_poisoned(norms)
