"""The ops of head_ops against float64, beside plain torch in float32; the union of rows number for number."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_examples import assert_not_worse, error

from annsoftmax_ref import reference as ref
from kernels_inline import build
from kernels_inline.checks import ROW_KINDS
from kernels_inline.head_ops import (
    filled_union_rows,
    gather_normalise,
    merge_normalise_backward,
    merge_rows,
    normalise_backward,
    normalise_backward_,
    union_rows,
    union_rows_torch,
)

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
    weight, classes = torch.randn(300, 70), torch.arange(0, 300, 2).repeat(3, 1)
    results = []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            unit, norms = gather_normalise(weight, classes.flatten(), False)
            results.append([unit, norms, merge_normalise_backward(unit, weight, *union_rows(classes, 300), norms)])
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# -------------------------------------------------------------------------------------------------- groups

# Several spans of ids that are looked at together, 1024 each: none, one or all of them named.
SIZES = [(1, 1, 1), (3, 4, 9), (2, 5, 5), (4, 0, 7), (0, 3, 7), (8, 40, 5000), (3, 1500, 2049), (1, 1024, 1024)]


def draw_classes(groups, count, rows, generator):
    drawn = [torch.randperm(rows, generator=generator)[:count].sort().values for _ in range(groups)]
    return torch.stack(drawn) if drawn else torch.empty(0, count, dtype=torch.int64)


@variants
@pytest.mark.parametrize("groups, count, rows", SIZES)
def test_the_union_is_the_one_of_torch_and_says_where_each_row_is_named(flags, groups, count, rows, generator):
    classes = draw_classes(groups, count, rows, generator)
    with build.using(flags):
        found = union_rows(classes, rows)
    for ours, torchs in zip(found, union_rows_torch(classes, rows), strict=True):
        assert ours.dtype == torchs.dtype == torch.int64 and torch.equal(ours, torchs)
    ids, starts, places = (x.tolist() for x in found)
    flat = classes.flatten().tolist()
    assert ids == sorted(set(flat)) and starts[-1] == len(flat)
    for u, row in enumerate(ids):
        assert places[starts[u] : starts[u + 1]] == [p for p, named in enumerate(flat) if named == row]


@pytest.mark.parametrize("op", [union_rows, union_rows_torch])
@pytest.mark.parametrize("classes, words", [
    ([[0, 1], [3, 5]], r"classes holds a value out of range; all should lie in 0\.\.4"),
    ([[-1, 1], [3, 4]], r"classes holds a value out of range; all should lie in 0\.\.4"),
    ([[0, 1], [4, 3]], "classes has a row that does not ascend; each should, without repeats"),
    ([[0, 1], [3, 3]], "classes has a row that does not ascend; each should, without repeats"),
    ([0, 1], r"classes is .* shape \[G, A\]"),
])  # fmt: skip
def test_classes_that_are_no_groups_of_rows_are_refused(op, classes, words):
    with pytest.raises(ValueError, match=words):
        op(torch.tensor(classes), 5)


def merged(slope, weight, classes, dtype=torch.float32):
    """The gradient [U, d] of the rows that classes name, by autograd through one gather of all groups."""
    rows = weight.to(dtype).requires_grad_()
    F.normalize(rows[classes.flatten()], dim=1).backward(slope.to(dtype))
    return rows.grad[classes.unique()]


@variants
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("d", [1, 33, 128])
def test_a_merge_is_not_worse_than_torch(flags, dtype, d, generator):
    weight, classes = torch.randn(50, d, generator=generator) * 3, draw_classes(4, 30, 50, generator)
    slope = torch.randn(120, d, generator=generator).to(dtype)
    with build.using(flags):
        _, norms = gather_normalise(weight, classes.flatten(), False)
        grad = merge_normalise_backward(slope, weight, *union_rows(classes, 50), norms)
    exact = merged(slope, weight, classes, torch.float64)
    assert_not_worse(grad, merged(slope, weight, classes), exact, size=float((slope.double() / norms[:, None]).norm()))


@quick
@given(st.integers(1, 9), st.integers(0, 40), st.integers(1, 150), st.booleans(), st.integers(0, 99))
def test_a_merge_is_the_backward_pass_of_the_sums_to_the_bit(groups, count, d, half, seed):
    generator = torch.Generator().manual_seed(seed)
    weight, classes = torch.randn(60, d, generator=generator), draw_classes(groups, count, 60, generator)
    weight[::7] = 0  # rows at the clamp
    slope = torch.randn(groups * count, d, generator=generator).to(torch.bfloat16 if half else torch.float32)
    ids, starts, places = union_rows(classes, 60)
    _, norms = gather_normalise(weight, classes.flatten(), half)
    expected = merge_rows(slope, starts, places)
    normalise_backward_(expected, weight, ids, gather_normalise(weight, ids, half)[1])
    assert torch.equal(merge_normalise_backward(slope, weight, ids, starts, places, norms), expected)


def test_rows_are_merged_in_the_order_of_the_groups(generator):
    classes = torch.tensor([[0, 4], [1, 4], [0, 4]])
    slope = torch.randn(6, 3, generator=generator)
    _, starts, places = union_rows(classes, 5)
    expected = torch.stack([slope[0] + slope[4], slope[2], slope[1] + slope[3] + slope[5]])
    assert torch.equal(merge_rows(slope, starts, places), expected)
    assert merge_rows(slope.double(), starts, places).dtype == torch.float64
    assert merge_rows(slope.bfloat16(), starts, places).dtype == torch.float32


MERGE = dict(
    slope=torch.ones(4, 3),
    weight=torch.ones(6, 3),
    ids=torch.tensor([1, 2, 5]),
    starts=torch.tensor([0, 1, 3, 4]),
    places=torch.tensor([0, 1, 2, 3]),
    norms=torch.ones(4),
)


@pytest.mark.parametrize("change, words", [
    (dict(ids=torch.tensor([1, 2, 6])), r"ids holds a value out of range; all should lie in 0\.\.N-1"),
    (dict(starts=torch.tensor([0, 2, 1, 4])), "starts should ascend from 0 to P"),
    (dict(starts=torch.tensor([1, 2, 3, 4])), "starts should ascend from 0 to P"),
    (dict(starts=torch.tensor([0, 1, 2, 5])), "starts should ascend from 0 to P"),
    (dict(places=torch.tensor([0, 1, 2, 4])), r"places holds a value out of range; all should lie in 0\.\.P-1"),
    (dict(places=torch.tensor([-1, 1, 2, 3])), r"places holds a value out of range; all should lie in 0\.\.P-1"),
    (dict(starts=torch.tensor([0, 4])), r"starts is .* shape \[2\] .* shape \[4\]"),
    (dict(places=torch.tensor([0])), r"places is .* shape \[1\] .* shape \[4\]"),
    (dict(norms=torch.ones(3)), r"norms is .* shape \[3\] .* shape \[4\]"),
    (dict(slope=torch.ones(4, 2)), r"slope is .* shape \[4, 2\] .* shape \[P, 3\]"),
    (dict(slope=torch.ones(4, 3, dtype=torch.float16)), "slope is torch.float16"),
])  # fmt: skip
def test_bad_arguments_of_a_merge_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        merge_normalise_backward(**MERGE | change)


# -------------------------------------------------------------------------------------------------- form


@pytest.mark.parametrize("half", [False, True])
def test_opcheck(half):
    weight, ids = torch.randn(20, 10), torch.tensor([3, 4, 4])
    torch.library.opcheck(gather_normalise.registered, (weight, ids, half))
    torch.library.opcheck(normalise_backward_.registered, (torch.randn(3, 10), weight, ids, torch.ones(3)))
    torch.library.opcheck(union_rows.registered, (torch.tensor([[0, 3], [3, 4]]), 5))
    slope = MERGE["slope"].to(torch.bfloat16 if half else torch.float32)
    torch.library.opcheck(merge_normalise_backward.registered, tuple((MERGE | dict(slope=slope)).values()))


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


@variants
@pytest.mark.parametrize("d", [1, 63, 64, 200])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("narrow", ROW_KINDS[1:], ids=str)
def test_narrow_weights_give_what_their_values_give(flags, d, half, narrow):
    weight = (torch.randn(50, d) * 3).to(narrow)
    classes = torch.stack([torch.randperm(50)[:12].sort().values for _ in range(3)])
    ids, starts, places = union_rows(classes, 50)
    results = []
    for rows in (weight, weight.float()):
        with build.using(flags):
            unit, norms = gather_normalise(rows, classes.flatten(), half)
            merged, alone = merge_normalise_backward(unit, rows, ids, starts, places, norms), unit.float()
            normalise_backward_(alone, rows, classes.flatten(), norms)
            from_half = normalise_backward(unit.bfloat16(), rows, classes.flatten(), norms)
        results.append((unit, norms, merged, alone, from_half))
    for ours, exact in zip(*results, strict=True):
        assert torch.equal(ours, exact.to(ours.dtype))
    assert results[0][2].dtype == results[0][4].dtype == torch.bfloat16  # the gradients of the weight


def test_every_number_of_8_bits_is_widened_as_torch_widens_it():
    """By kernels that turn many at a time into float32: of a row that is one number, the length is its size."""
    every = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn)
    fine = every[~every.float().isnan() & (every.float() != 0)]
    for dim in (1, 64):
        rows = fine[:, None].repeat(1, dim).contiguous()
        for flags in build.VARIANTS.values():
            with build.using(flags):
                unit, norms = gather_normalise(rows, torch.arange(len(rows)), False)
            torch.testing.assert_close(norms, fine.float().abs() * dim**0.5, rtol=1e-6, atol=0)
            torch.testing.assert_close(unit, (fine.float().sign() / dim**0.5)[:, None].repeat(1, dim))
    with_nan = torch.full((1, 64), float("nan")).to(torch.float8_e4m3fn)
    assert gather_normalise(with_nan, torch.tensor([0]), False)[0].isnan().all()


@quick
@given(st.integers(1, 4), st.integers(1, 30), st.integers(1, 60), st.integers(0, 99))
def test_a_filled_union_is_the_union_and_the_lowest_others(groups, size, rows, seed):
    generator, size = torch.Generator().manual_seed(seed), min(size, rows)
    drawn = [torch.randperm(rows, generator=generator)[:size].sort().values for _ in range(groups)]
    classes = torch.stack(drawn)
    ids, starts, places = filled_union_rows(classes, rows)
    exact, exact_starts, exact_places = union_rows_torch(classes, rows)
    named = starts.diff() > 0
    assert len(ids) == min(classes.numel(), rows) and (ids.diff() > 0).all()
    assert torch.equal(ids[named], exact) and torch.equal(places, exact_places)
    assert torch.equal(starts.diff()[named], exact_starts.diff())
    others = sorted(set(range(rows)) - set(exact.tolist()))
    assert ids[~named].tolist() == others[: len(ids) - len(exact)]
