"""head.cu: every version against float64, and no worse than plain torch in the same precision."""

import pytest
import torch
import torch.nn.functional as F
from cuda_runners import RUNNERS, is_poisoned, poisoned, runner, versions
from kernel_examples import assert_not_worse, assert_rounded_once

from kernels_inline.checks import ROW_KINDS, gradient_kind
from kernels_inline.head_ops import filled_union_rows, merge_rows, union_rows_torch

DIMS = [1, 31, 33, 64, 100, 130, 516]
halves = pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
narrow = pytest.mark.parametrize("narrow", ROW_KINDS[1:], ids=str)


@pytest.fixture(params=RUNNERS)
def head(request):
    return runner(request.param, "head.cu")


def version_of(name):
    return pytest.mark.parametrize("version", versions("head.cu", name))


def type_of(half):
    return torch.bfloat16 if half else torch.float32


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
    assert head("gather_normalise_v", version, weight, False, 21, dim, ids, count, half, unit, norms) == 0
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
    arguments = grad, slope if half else None, weight, False, 21, dim, ids, 21, norms
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
    assert head("normalise_backward_v", version, grad, None, weight, False, 3, dim, ids, 2, norms) == 0
    assert torch.equal(grad, expected)


# -------------------------------------------------------------------------------------------------- merges


def groups_of_rows(dim, half):
    """Three groups of 8 of 21 rows, the last two at the clamp and named by all groups: the launcher's arguments."""
    weight = torch.randn(21, dim) * 3
    weight[19], weight[20] = 0, 1e-14
    drawn = [torch.randperm(19)[:6].sort().values for _ in range(3)]
    classes = torch.stack([torch.cat([row, torch.tensor([19, 20])]) for row in drawn])
    ids, starts, places = union_rows_torch(classes, 21)
    slope = torch.randn(24, dim).to(type_of(half))
    norms = weight[classes.flatten()].norm(dim=1)
    return slope, half, weight, False, 21, dim, ids, len(ids), starts, places, 24, norms


@version_of("merge_normalise_backward")
@pytest.mark.parametrize("dim", DIMS)
@halves
def test_a_merge_is_not_worse_than_torch(head, version, dim, half):
    arguments = groups_of_rows(dim, half)
    slope, _, weight, _, _, _, ids, _, starts, places, _, norms = arguments
    norms.clamp_(min=1e-12)
    grad = poisoned(len(ids), dim, dtype=torch.float32)
    assert head("merge_normalise_backward_v", version, *arguments, grad) == 0
    sums = merge_rows(slope.double(), starts, places)
    assert torch.equal(grad[-2:], merge_rows(slope, starts, places)[-2:] / 1e-12)
    exact, plain = (backward(weight[ids[:-2]].to(t), sums[:-2].to(t)) for t in (torch.float64, torch.float32))
    size = float((sums[:-2] / weight[ids[:-2]].double().norm(dim=1, keepdim=True)).norm())
    assert_not_worse(grad[:-2], plain, exact, size=size)


# --------------------------------------------------------------------------------------------------- narrow weights


@version_of("gather_normalise")
@pytest.mark.parametrize("dim", DIMS)
@halves
@narrow
def test_narrow_weights_give_what_their_values_give(head, version, dim, half, narrow):
    weight, ids = weights(21, dim)
    weight = weight.to(narrow)
    results = []
    for stored in (weight, weight.float()):
        kind = ROW_KINDS.index(stored.dtype)
        unit, norms = poisoned(21, dim, dtype=type_of(half)), poisoned(21, dtype=torch.float32)
        assert head("gather_normalise_v", version, stored, kind, 21, dim, ids, 21, half, unit, norms) == 0
        slope, grad = torch.ones_like(unit), torch.ones(21, dim, dtype=gradient_kind(stored) if half else torch.float32)
        arguments = grad, slope if half else None, stored, kind, 21, dim, ids, 21, norms
        assert head("normalise_backward_v", version, *arguments) == 0
        results.append((unit, norms, grad))
    for ours, exact in zip(*results, strict=True):
        assert torch.equal(ours, exact.to(ours.dtype))


@version_of("merge_normalise_backward")
@pytest.mark.parametrize("dim", [33, 64])
@halves
def test_rows_that_no_group_names_have_no_gradient(head, version, dim, half):
    slope, _, weight, *_ = groups_of_rows(dim, half)
    classes = torch.stack([torch.randperm(21)[:8].sort().values for _ in range(3)])
    norms = weight[classes.flatten()].norm(dim=1).clamp(min=1e-12)
    grads = []
    for union in (union_rows_torch, filled_union_rows):
        ids, starts, places = union(classes, 21)
        grads.append(poisoned(len(ids), dim, dtype=torch.float32))
        arguments = slope, half, weight, False, 21, dim, ids, len(ids), starts, places, 24, norms
        assert head("merge_normalise_backward_v", version, *arguments, grads[-1]) == 0
        grads[-1] = torch.zeros(21, dim).index_copy(0, ids, grads[-1])
    assert torch.equal(*grads)


@version_of("merge_normalise_backward")
@pytest.mark.parametrize("dim", DIMS)
@halves
@narrow
def test_a_merge_over_narrow_weights(head, version, dim, half, narrow):
    slope, _, weight, _, *rest = groups_of_rows(dim, half)
    weight, grads = weight.to(narrow), []
    for stored in (weight, weight.float()):
        grads.append(poisoned(rest[3], dim, dtype=gradient_kind(stored)))
        arguments = slope, half, stored, ROW_KINDS.index(stored.dtype), *rest
        assert head("merge_normalise_backward_v", version, *arguments, grads[-1]) == 0
    assert torch.equal(grads[0], grads[1].bfloat16())


# -------------------------------------------------------------------------------------------------- launchers


def test_the_launchers_of_the_ops_are_the_last_versions(head):
    weight, ids = torch.randn(9, 64), torch.randint(9, (5,))
    units = [poisoned(5, 64, dtype=torch.float32) for _ in range(2)]
    norms = [poisoned(5, dtype=torch.float32) for _ in range(2)]
    assert head("gather_normalise", weight, False, 9, 64, ids, 5, False, units[0], norms[0]) == 0
    assert head("gather_normalise_v", 3, weight, False, 9, 64, ids, 5, False, units[1], norms[1]) == 0
    assert torch.equal(*units) and torch.equal(*norms)
    grads = [units[0].clone(), units[0].clone()]
    assert head("normalise_backward", grads[0], None, weight, False, 9, 64, ids, 5, norms[0]) == 0
    assert head("normalise_backward_v", 3, grads[1], None, weight, False, 9, 64, ids, 5, norms[0]) == 0
    assert torch.equal(*grads)
    arguments = groups_of_rows(64, False)
    grads = [poisoned(len(arguments[6]), 64, dtype=torch.float32) for _ in range(2)]
    assert head("merge_normalise_backward", *arguments, grads[0]) == 0
    assert head("merge_normalise_backward_v", 2, *arguments, grads[1]) == 0
    assert torch.equal(*grads)


def test_nothing_to_do_and_a_version_that_is_not_there_change_nothing(head):
    weight, none = torch.randn(4, 8), torch.empty(0, dtype=torch.int64)
    unit, norms = poisoned(1, 8, dtype=torch.float32), poisoned(1, dtype=torch.float32)
    assert head("gather_normalise", weight, False, 4, 8, none, 0, False, unit, norms) == 0
    assert head("gather_normalise_v", 4, weight, False, 4, 8, torch.tensor([1]), 1, False, unit, norms) == 100
    assert is_poisoned(unit) and is_poisoned(norms)
