"""margin_softmax_ against float64, beside plain torch in float32, and the exponential in it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_examples import MARGINS, assert_not_worse, by_autograd, sampled

from annsoftmax_ref import reference as ref
from kernels_inline import build
from kernels_inline.dispatch import call
from kernels_inline.softmax_ops import KINDS, margin_softmax_

pytestmark = pytest.mark.skipif(not build.available(), reason=str(build.why_not()))
variants = pytest.mark.parametrize("flags", build.VARIANTS.values(), ids=build.VARIANTS)
quick = settings(max_examples=40, deadline=None, derandomize=True)


def by_kernel(cosine, target, name, scale, share, offset=None):
    gradient = cosine.clone()
    losses = margin_softmax_(gradient, target, KINDS[name], scale, MARGINS[name] or 0.0, share, offset)
    return losses, gradient


# -------------------------------------------------------------------------------------------------- exponential


@variants
def test_exponential_has_a_relative_error_below_1_5e_7(flags):
    x = torch.cat([torch.linspace(-87.3, 0, 2_000_001), -torch.logspace(-30, 0, 1000), torch.zeros(1)])
    y = torch.empty_like(x)
    with build.using(flags):
        call("exponential", x, len(x), y)
    assert float((y.double() / x.double().exp() - 1).abs().max()) < 1.5e-7
    assert y[-1] == 1


@variants
def test_exponential_vanishes_at_the_lower_end_and_keeps_nan(flags):
    x = torch.tensor([-88.0, -87.75, float("nan"), -87.0] * 5)
    y = torch.empty_like(x)
    with build.using(flags):
        call("exponential", x, len(x), y)
    assert y[0] == 0 and y[1] == 0 and y[2].isnan() and y[3] > 0


# -------------------------------------------------------------------------------------------------- margin_softmax_


@variants
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("scale", [1.0, 20.0, 64.0])
def test_margin_softmax_is_not_worse_than_torch_in_float32(flags, name, scale):
    cosine, target = sampled(7, 3000)
    with build.using(flags):
        losses, gradient = by_kernel(cosine, target, name, scale, 1 / 7)
    exact, plain = (by_autograd(c, target, name, scale, 1 / 7) for c in (cosine.double(), cosine))
    assert_not_worse(losses, plain[0], exact[0])
    assert_not_worse(gradient, plain[1], exact[1])


@variants
@pytest.mark.parametrize("name", KINDS)
def test_margin_softmax_in_bfloat16_rounds_only_the_gradient(flags, name):
    cosine, target = sampled(5, 1500, dtype=torch.bfloat16)
    with build.using(flags):
        losses, gradient = by_kernel(cosine, target, name, 20.0, 0.2)
    exact_losses, exact = by_autograd(cosine.double(), target, name, 20.0, 0.2)
    torch.testing.assert_close(losses.double(), exact_losses, rtol=1e-6, atol=1e-9)
    assert gradient.dtype == torch.bfloat16
    # Rounding to 8 bits, 2^-8 of each element, and float32's error where two bfloat16 are equally near.
    assert ((gradient.double() - exact).abs() <= exact.abs() * (2**-8 + 1e-5) + 1e-37).all()


@quick
@given(
    st.integers(1, 5),
    st.sampled_from([1, 2, 15, 16, 63, 64, 65, 1023, 1024, 1025, 2100]),
    st.sampled_from(list(KINDS)),
    st.floats(0.5, 70),
    st.booleans(),
    st.integers(0, 99),
)
def test_margin_softmax_for_any_size(b, count, name, scale, ties, seed):
    cosine, target = sampled(b, count, seed)
    if ties:
        cosine = (cosine * 2).round() / 2  # many equal cosines, -1 and 1 among them
    if name == "arcface":
        cosine.clamp_(-0.99, 0.99)  # at +-1 its slope is infinite
    losses, gradient = by_kernel(cosine, target, name, scale, 1 / b)
    margin = {} if MARGINS[name] is None else {"margin": MARGINS[name]}
    mean, dz = ref.OBJECTIVES[name](cosine.double().numpy(), target.numpy(), scale=scale, **margin)
    np.testing.assert_allclose(losses.double().mean(), mean, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(gradient.numpy(), dz, rtol=5e-5, atol=1e-8 * scale)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("extreme", [-1.0, 1.0, 1.0000001])
def test_cosines_at_the_ends_of_their_range_give_what_float64_gives(name, extreme):
    cosine = torch.full((2, 70), extreme)
    cosine[1, 5] = -extreme
    target = torch.tensor([3, 5])
    losses, gradient = by_kernel(cosine, target, name, 64.0, 1.0)
    exact_losses, exact = by_autograd(cosine.double(), target, name, 64.0, 1.0)
    torch.testing.assert_close(losses.double(), exact_losses, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-5, atol=1e-12)


@variants
def test_a_masked_column_gets_no_gradient_and_a_nan_is_not_hidden(flags):
    cosine, target = sampled(2, 200)
    target[:] = 0
    cosine[0, 7], cosine[1, 150] = -math.inf, math.nan
    with build.using(flags):
        losses, gradient = by_kernel(cosine, target, "cosface", 20.0, 1.0)
    assert gradient[0, 7] == 0 and gradient[0].isfinite().all() and losses[0].isfinite()
    assert losses[1].isnan() and gradient[1].isnan().all()


@variants
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("sets", [1, 3])
@pytest.mark.parametrize("size", [1.0, 50.0])
def test_offsets_are_added_to_the_logits_of_each_set(flags, name, sets, size):
    cosine, target = sampled(6, 1500)
    offset = size * (2 * torch.rand(sets, 1500, generator=torch.Generator().manual_seed(0)) - 1)
    with build.using(flags):
        losses, gradient = by_kernel(cosine, target, name, 20.0, 1 / 6, offset)
    rows = 6 // sets
    for s, own in enumerate(offset):
        part = slice(s * rows, (s + 1) * rows)
        exact, plain = (
            by_autograd(c[part], target[part], name, 20.0, 1 / 6, o)
            for c, o in ((cosine.double(), own.double()), (cosine, own))
        )
        assert_not_worse(losses[part], plain[0], exact[0])
        assert_not_worse(gradient[part], plain[1], exact[1])


@variants
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("offset", [False, True])
def test_far_columns_are_columns_like_the_others(flags, name, dtype, offset):
    generator = torch.Generator().manual_seed(0)
    cosine, target = sampled(6, 1130, dtype=dtype)
    target %= 1100
    own, far = (part.contiguous() for part in cosine.split((1100, 30), dim=1))
    offsets = 3 * torch.randn(2, 1130, generator=generator)
    offsets[1, 1120] = -math.inf  # a list that leaves nothing out
    if not offset:
        offsets[:, :1100] = 0
    near_offset, far_offset = (part.contiguous() for part in offsets.split((1100, 30), dim=1))
    with build.using(flags):
        expected_losses, expected = by_kernel(cosine, target, name, 20.0, 1 / 6, offsets)
        more = (near_offset if offset else None, far, far_offset)
        losses = margin_softmax_(own, target, KINDS[name], 20.0, MARGINS[name] or 0.0, 1 / 6, *more)
    close = dict(rtol=2**-7, atol=1e-6) if dtype == torch.bfloat16 else dict(rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.cat([own, far], dim=1), expected, **close)
    assert (far[3:, 20] == 0).all()


@variants
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_without_a_sample_has_no_loss_and_no_gradient(flags, dtype):
    cosine, target = sampled(4, 1100, dtype=dtype)
    cosine[1], cosine[3], target[1], target[3] = math.nan, math.inf, -1, -1
    for offset in (None, torch.ones(2, 1100)):
        with build.using(flags):
            losses, gradient = by_kernel(cosine, target, "arcface", 20.0, 0.5, offset)
        assert (gradient[[1, 3]] == 0).all() and losses[[1, 3]].tolist() == [0, 0]
        assert (losses[[0, 2]] > 0).all() and gradient[[0, 2]].any(dim=1).all()
    far = torch.full((4, 3), math.nan, dtype=dtype)
    far[[0, 2]] = 0.5
    margin_softmax_(cosine, target, 0, 20.0, 0.0, 0.5, None, far, torch.zeros(1, 3))
    assert (far[[1, 3]] == 0).all() and (far[[0, 2]] > 0).all()


def test_small_losses_do_not_cancel():
    cosine = torch.full((1, 1000), -1.0)
    cosine[0, 3] = 1.0
    losses, gradient = by_kernel(cosine, torch.tensor([3]), "cross_entropy", 16.0, 1.0)
    expected = 999 * math.exp(-32)  # 1.3e-11; 1 - p_y in float32 would be 0
    assert float(losses) == pytest.approx(expected, rel=1e-4)
    assert float(gradient[0, 3]) == pytest.approx(-16 * expected, rel=1e-5)


def test_threads_do_not_change_a_bit():
    cosine, target = sampled(9, 2500)
    results = []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            results.append(by_kernel(cosine, target, "cosface", 20.0, 1.0))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# -------------------------------------------------------------------------------------------------- form


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype):
    torch.library.opcheck(margin_softmax_.registered, (*sampled(3, 40, dtype=dtype), 1, 20.0, 0.1, 0.5))
    more = torch.randn(3, 40), torch.rand(3, 7).to(dtype), torch.randn(3, 7)
    torch.library.opcheck(margin_softmax_.registered, (*sampled(3, 40, dtype=dtype), 1, 20.0, 0.1, 0.5, *more))


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(cosine=torch.zeros(3, 4, dtype=torch.float64)), "cosine is torch.float64"),
        (dict(cosine=torch.zeros(4, 3).T), "cosine is .* contiguous"),
        (dict(targets=torch.zeros(2, dtype=torch.int64)), r"targets is .* shape \[2\]"),
        (dict(targets=torch.tensor([0, 1, 4])), r"targets holds a value out of range; all should lie in -1\.\.3"),
        (dict(targets=torch.tensor([0, -2, 2])), "targets holds"),
        (dict(offset=torch.zeros(2, 4)), "offset has 2 rows; the 3 rows of cosines should be so many sets"),
        (dict(offset=torch.zeros(0, 4)), "offset has 0 rows"),
        (dict(offset=torch.zeros(1, 3)), r"offset is .* shape \[1, 3\]"),
        (dict(far=torch.zeros(2, 5)), r"far is .* shape \[2, 5\]"),
        (dict(far=torch.zeros(3, 5).bfloat16()), "far is torch.bfloat16"),
        (dict(far=torch.zeros(3, 5), far_offset=torch.zeros(2, 5)), "far_offset has 2 rows"),
        (dict(far=torch.zeros(3, 5), far_offset=torch.zeros(1, 4)), r"far_offset is .* shape \[1, 4\]"),
        (dict(offset=torch.zeros(3, 4), far=torch.zeros(3, 5), far_offset=torch.zeros(1, 5)), r"offset is .* \[3, 4\]"),
        (dict(kind=4), "kind is 4"),
        (dict(scale=0.0), "scale"),
        (dict(share=math.inf), "share"),
    ],
)
def test_margin_softmax_names_what_is_wrong_and_changes_nothing(change, words):
    arguments = dict(
        cosine=torch.zeros(3, 4),
        targets=torch.tensor([0, 1, 2]),
        kind=0,
        scale=1.0,
        margin=0.0,
        share=1.0,
    )
    arguments |= change
    with pytest.raises(ValueError, match=words):
        margin_softmax_(**arguments)
    assert (arguments["cosine"] == 0).all()
