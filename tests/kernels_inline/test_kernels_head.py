"""gather_normalise, normalise_backward(_) and add_rows_ against float64, beside plain torch in float32."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_examples import assert_not_worse, error

from annsoftmax_ref import reference as ref
from kernels_inline import build
from kernels_inline.head_ops import add_rows_, gather_normalise, normalise_backward, normalise_backward_

pytestmark = pytest.mark.skipif(not build.available(), reason=str(build.why_not()))
variants = pytest.mark.parametrize("flags", build.VARIANTS.values(), ids=build.VARIANTS)
quick = settings(max_examples=40, deadline=None, derandomize=True)


# -------------------------------------------------------------------------------------------------- rows


@variants
@pytest.mark.parametrize("d", [1, 63, 64, 128, 200])
def test_gather_normalise_and_its_backward_are_not_worse_than_torch(flags, d):
    weight, ids = torch.randn(50, d) * 3, torch.randint(50, (40,))  # some ids repeat
    grad = torch.randn(40, d)
    with build.using(flags):
        unit, norms = gather_normalise(weight, ids, False)
        backward = grad.clone()
        normalise_backward_(backward, weight, ids, norms)
    (exact, exact_grad), (plain, plain_grad) = (
        normalised(weight[ids].to(t), grad) for t in (torch.float64, torch.float32)
    )
    assert_not_worse(unit, plain, exact)
    assert_not_worse(norms, weight[ids].norm(dim=1), weight[ids].double().norm(dim=1))
    # With one dimension the gradient is 0 but for rounding: the parts along and across the row cancel.
    assert error(backward, exact_grad) <= max(
        error(plain_grad, exact_grad), 2e-7 * float((grad / norms[:, None]).norm())
    )


def normalised(rows, grad):
    rows = rows.clone().requires_grad_()
    unit = F.normalize(rows, dim=1)
    unit.backward(grad.to(rows.dtype))
    return unit.detach(), rows.grad


@quick
@given(st.integers(0, 30), st.integers(1, 20), st.integers(1, 150), st.booleans(), st.integers(0, 99))
def test_gather_normalise_for_any_size(count, n, d, half, seed):
    generator = torch.Generator().manual_seed(seed)
    weight, ids = torch.randn(n, d, generator=generator), torch.randint(n, (count,), generator=generator)
    unit, norms = gather_normalise(weight, ids, half)
    expected = F.normalize(weight[ids].double(), dim=1)
    if half:
        assert unit.dtype == torch.bfloat16
        assert ((unit.double() - expected).abs() <= expected.abs() * (2**-8 + 1e-5)).all()
    else:
        torch.testing.assert_close(unit.double(), expected, rtol=3e-7, atol=1e-12)
    torch.testing.assert_close(norms, weight[ids].norm(dim=1))


def test_a_row_of_zeros_stays_zero_and_its_gradient_is_that_of_the_clamp():
    weight, ids = torch.zeros(3, 10), torch.tensor([1])
    unit, norms = gather_normalise(weight, ids, False)
    assert (unit == 0).all() and norms.item() == pytest.approx(1e-12)
    grad = torch.arange(10.0).view(1, 10)
    expected = ref.normalize_backward(weight[ids].double().numpy(), grad.double().numpy())
    normalise_backward_(grad, weight, ids, norms)
    np.testing.assert_allclose(grad.numpy(), expected, rtol=1e-6)


def test_threads_do_not_change_a_bit():
    weight, ids = torch.randn(300, 70), torch.randint(300, (200,))
    results = []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            results.append(gather_normalise(weight, ids, False))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# -------------------------------------------------------------------------------------------------- add_rows_


@variants
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("u, a, d", [(1, 1, 1), (50, 50, 33), (300, 40, 128), (7, 0, 5)])
def test_adds_what_torch_adds(flags, dtype, u, a, d, generator):
    total, part = torch.randn(u, d, generator=generator), torch.randn(a, d, generator=generator).to(dtype)
    places = torch.randperm(u, generator=generator)[:a].sort().values
    expected = total.clone()
    expected[places] += part.float()
    with build.using(flags):
        add_rows_(total, places, part)
    assert torch.equal(total, expected)


@pytest.mark.parametrize("places", [[1, 1], [3, 2], [0, 5], [-1, 2]])
def test_places_that_repeat_or_lie_outside_are_refused_with_nothing_changed(places):
    total = torch.zeros(5, 3)
    with pytest.raises(ValueError, match=r"places should ascend, without repeats, within 0\.\.4"):
        add_rows_(total, torch.tensor(places), torch.ones(2, 3))
    assert not total.any()
    with pytest.raises(ValueError, match="part"):
        add_rows_(total, torch.tensor([1]), torch.ones(2, 3))


# -------------------------------------------------------------------------------------------------- form


@pytest.mark.parametrize("half", [False, True])
def test_opcheck(half):
    weight, ids = torch.randn(20, 10), torch.tensor([3, 4, 4])
    torch.library.opcheck(gather_normalise.registered, (weight, ids, half))
    torch.library.opcheck(normalise_backward_.registered, (torch.randn(3, 10), weight, ids, torch.ones(3)))
    torch.library.opcheck(add_rows_.registered, (torch.zeros(5, 3), torch.tensor([1, 4]), torch.ones(2, 3)))


@pytest.mark.parametrize("shape", [(6,), (2, 3, 1)])
def test_a_weight_that_is_no_matrix_is_refused(shape):
    with pytest.raises(ValueError, match=r"weight is .* shape \[N, d\]"):
        gather_normalise(torch.zeros(shape), torch.tensor([0]), False)


def test_rows_out_of_range_and_wrong_types_are_refused():
    weight = torch.randn(5, 3)
    for ids in (torch.tensor([0, 5]), torch.tensor([-1])):
        with pytest.raises(ValueError, match=r"ids holds a value out of range; all should lie in 0\.\.4"):
            gather_normalise(weight, ids, False)
    with pytest.raises(ValueError, match="ids is torch.int32"):
        gather_normalise(weight, torch.tensor([0], dtype=torch.int32), False)
    with pytest.raises(ValueError, match="norms is"):
        normalise_backward_(torch.zeros(1, 3), weight, torch.tensor([0]), torch.ones(2))


@pytest.mark.parametrize("rows, dim", [(1, 1), (7, 33), (40, 128)])
def test_a_gradient_in_bfloat16_is_widened_and_then_treated_alike(rows, dim):
    weight, ids = torch.randn(50, dim), torch.randint(50, (rows,))
    _, norms = gather_normalise(weight, ids, False)
    slope = torch.randn(rows, dim).bfloat16()
    expected = slope.float()
    normalise_backward_(expected, weight, ids, norms)
    assert torch.equal(normalise_backward(slope, weight, ids, norms), expected)
    torch.library.opcheck(normalise_backward.registered, (slope, weight, ids, norms))
