"""softmax.cu: every version against float64, and no worse than plain torch in the same precision."""

import math

import pytest
import torch
from cuda_runners import RUNNERS, is_poisoned, poisoned, runner, versions
from kernel_examples import MARGINS, assert_not_worse, assert_rounded_once, by_autograd

from kernels_inline.softmax_ops import KINDS

halves = pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
each_version = pytest.mark.parametrize("version", versions("softmax.cu", "margin_softmax"))


@pytest.fixture(params=RUNNERS)
def softmax(request):
    return runner(request.param, "softmax.cu")


def by_kernel(call, version, cosine, target, name, scale, share, offset=None, far=None, far_offset=None):
    gradient, losses = cosine.clone(), poisoned(len(cosine), dtype=torch.float32)
    formula = KINDS[name], float(scale), MARGINS[name] or 0.0, float(share)
    far = (None, 0, None) if far is None else (far, far.shape[1], far_offset)
    sets = 1 if offset is None else len(offset)
    half = cosine.dtype == torch.bfloat16
    columns = gradient, half, *cosine.shape, target, offset, sets, *far
    assert call("margin_softmax_v", version, *columns, *formula, losses) == 0
    return losses, gradient


def at_the_edges(b, count, half=False):
    cosine, target = (
        (torch.rand(b, count) * 2 - 1).to(torch.bfloat16 if half else torch.float32),
        torch.randint(count, (b,)),
    )
    target[0], target[-1] = 0, count - 1
    return cosine, target


@each_version
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("scale", [1.0, 20.0, 64.0])
def test_margin_softmax_is_not_worse_than_torch_in_float32(softmax, version, name, scale):
    cosine, target = at_the_edges(4, 2501)
    losses, gradient = by_kernel(softmax, version, cosine, target, name, scale, 1 / 4)
    exact, plain = (by_autograd(c, target, name, scale, 1 / 4) for c in (cosine.double(), cosine))
    assert_not_worse(losses, plain[0], exact[0])
    assert_not_worse(gradient, plain[1], exact[1])


@each_version
@pytest.mark.parametrize("count", [1, 2, 7, 31, 32, 64, 129, 1000])
@halves
def test_margin_softmax_for_any_size(softmax, version, count, half):
    for name in KINDS:
        cosine, target = at_the_edges(3, count, half)
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


@each_version
@pytest.mark.parametrize("place", range(0, 24, 5))
@halves
def test_a_target_anywhere_in_a_row_that_begins_anywhere(softmax, version, place, half):
    cosine, _ = at_the_edges(9, 27, half)  # rows of 54 or 108 bytes
    target = torch.full((9,), place)
    losses, gradient = by_kernel(softmax, version, cosine, target, "cosface", 30.0, 1.0)
    exact_losses, exact = by_autograd(cosine.double(), target, "cosface", 30.0, 1.0)
    torch.testing.assert_close(losses.double(), exact_losses, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(gradient.double(), exact, rtol=2**-8 if half else 1e-5, atol=1e-9)


@each_version
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


@each_version
@pytest.mark.parametrize("scale", [1e4, 1e8])
@halves
def test_huge_scales_overflow_nowhere(softmax, version, scale, half):
    cosine, target = at_the_edges(3, 90, half)
    target[1] = cosine[1].argmax()
    for name in ("cross_entropy", "cosface", "dsoftmax"):
        losses, gradient = by_kernel(softmax, version, cosine, target, name, scale, 1.0)
        exact_losses, exact = by_autograd(cosine.double(), target, name, scale, 1.0)
        torch.testing.assert_close(losses.double(), exact_losses, rtol=1e-6, atol=1e-6 * scale)
        assert gradient.isfinite().all()
        torch.testing.assert_close(gradient.double(), exact, rtol=2**-7, atol=1e-3 * scale)


@each_version
@pytest.mark.parametrize("ascending", [False, True])
def test_cosines_in_order_so_that_the_largest_comes_last_or_first(softmax, version, ascending):
    cosine = torch.linspace(-1, 1, 700).repeat(2, 1)
    cosine = cosine if ascending else cosine.flip(1).contiguous()
    target = torch.tensor([0, 699])
    losses, gradient = by_kernel(softmax, version, cosine, target, "cross_entropy", 64.0, 1.0)
    exact_losses, exact = by_autograd(cosine.double(), target, "cross_entropy", 64.0, 1.0)
    torch.testing.assert_close(losses.double(), exact_losses, rtol=3e-7, atol=1e-12)
    torch.testing.assert_close(gradient.double(), exact, rtol=2e-5, atol=1e-12)


@each_version
@pytest.mark.parametrize("count", [100, 203])
def test_a_masked_column_gets_no_gradient_and_a_nan_is_not_hidden(softmax, version, count):
    cosine, target = at_the_edges(3, count)
    target[:] = 0
    cosine[0, 7], cosine[1, 50], cosine[2, 1:] = -math.inf, math.nan, -math.inf
    losses, gradient = by_kernel(softmax, version, cosine, target, "cosface", 20.0, 1.0)
    assert gradient[0, 7] == 0 and gradient[0].isfinite().all() and losses[0].isfinite()
    assert losses[1].isnan() and gradient[1].isnan().all()
    assert losses[2].abs() < 1e-15 and (gradient[2] == 0).all()


@each_version
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("sets", [1, 2])
@halves
def test_offsets_are_added_to_the_logits_of_each_set(softmax, version, name, sets, half):
    cosine, target = at_the_edges(4, 203, half)
    cosine = cosine.clamp(-0.98, 0.98)
    offset = 10 * (2 * torch.rand(sets, 203) - 1)
    losses, gradient = by_kernel(softmax, version, cosine, target, name, 20.0, 0.5, offset)
    for rows, own in zip(torch.arange(4).chunk(sets), offset, strict=True):
        exact_losses, exact = by_autograd(cosine[rows].double(), target[rows], name, 20.0, 0.5, own.double())
        torch.testing.assert_close(losses[rows].double(), exact_losses, rtol=2e-6, atol=1e-6)
        torch.testing.assert_close(gradient[rows].double(), exact, rtol=2**-7 if half else 2e-5, atol=1e-7)


@each_version
@pytest.mark.parametrize("name", KINDS)
@halves
def test_far_columns_are_columns_like_the_others(softmax, version, name, half):
    cosine, target = at_the_edges(4, 230, half)
    cosine, target = cosine.clamp(-0.98, 0.98), target.clamp_max(199)
    offset = 3 * torch.randn(2, 230)
    offset[1, 210] = -math.inf  # a list that leaves nothing out
    own, far = (part.contiguous() for part in cosine.split((200, 30), dim=1))
    parts = [part.contiguous() for part in offset.split((200, 30), dim=1)]
    losses, gradient = by_kernel(softmax, version, own, target, name, 20.0, 0.5, parts[0], far, parts[1])
    expected_losses, expected = by_kernel(softmax, version, cosine, target, name, 20.0, 0.5, offset)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-6, atol=1e-6)
    ours = torch.cat([gradient, far], dim=1)
    torch.testing.assert_close(ours, expected, rtol=2**-7 if half else 1e-5, atol=1e-7)
    assert (far[2:, 10] == 0).all()


@each_version
@halves
def test_a_row_without_a_sample_has_no_loss_and_no_gradient(softmax, version, half):
    cosine, target = at_the_edges(4, 77, half)
    cosine[1], cosine[3], target[1], target[3] = math.nan, math.inf, -1, -1
    for offset in (None, torch.ones(2, 77)):
        losses, gradient = by_kernel(softmax, version, cosine, target, "arcface", 20.0, 0.5, offset)
        assert (gradient[[1, 3]] == 0).all() and losses[[1, 3]].tolist() == [0, 0]
        assert (losses[[0, 2]] > 0).all() and gradient[[0, 2]].any(dim=1).all()


@each_version
def test_small_losses_do_not_cancel(softmax, version):
    cosine = torch.full((1, 500), -1.0)
    cosine[0, 3] = 1.0
    losses, gradient = by_kernel(softmax, version, cosine, torch.tensor([3]), "cross_entropy", 16.0, 1.0)
    expected = 499 * math.exp(-32)  # 6e-12; 1 - p_y in float32 would be 0
    assert float(losses) == pytest.approx(expected, rel=1e-4)
    assert float(gradient[0, 3]) == pytest.approx(-16 * expected, rel=1e-5)


# -------------------------------------------------------------------------------------------------- launchers


def test_the_launcher_of_the_op_is_the_last_version(softmax):
    cosine, target = at_the_edges(3, 50)
    expected = by_kernel(softmax, 3, cosine, target, "cosface", 20.0, 0.1)
    losses, margin = poisoned(3, dtype=torch.float32), MARGINS["cosface"]
    columns = cosine, False, 3, 50, target, None, 1, None, 0, None
    assert softmax("margin_softmax", *columns, KINDS["cosface"], 20.0, margin, 0.1, losses) == 0
    assert torch.equal(losses, expected[0]) and torch.equal(cosine, expected[1])


def test_nothing_to_do_and_a_version_that_is_not_there_change_nothing(softmax):
    cosine, losses = poisoned(1, 8, dtype=torch.float32), poisoned(1, dtype=torch.float32)
    none, nothing = torch.empty(0, dtype=torch.int64), (None, 1, None, 0, None)
    assert softmax("margin_softmax", cosine, False, 0, 8, none, *nothing, 0, 1.0, 0.0, 1.0, losses) == 0
    assert (
        softmax("margin_softmax_v", 0, cosine, False, 1, 8, torch.tensor([1]), *nothing, 0, 1.0, 0.0, 1.0, losses)
        == 100
    )
    assert is_poisoned(cosine) and is_poisoned(losses)
