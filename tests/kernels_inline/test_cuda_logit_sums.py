"""logit_sums.cu: every version against float64, and no worse than plain torch in the same precision."""

import math

import pytest
import torch
from cuda_runners import RUNNERS, index, is_poisoned, poisoned, runner, versions
from logit_examples import SCALE, assert_slopes_are_right, assert_sums_are_right, columns, gradients

SOURCE = "logit_sums.cu"
halves = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
each_version = pytest.mark.parametrize("version", versions(SOURCE, "logit_sums"))


@pytest.fixture(params=RUNNERS)
def call(request):
    return runner(request.param, SOURCE)


def launched(call, version, given, scale=SCALE, of_rows=None):
    """(own, others), {cosine, far: their slopes}, what these were made of. version None: the launchers of the ops."""
    cosine, offset, far, far_offset = (given[name] for name in ("cosine", "offset", "far", "far_offset"))
    shifts = offset if far_offset is None else far_offset
    half, sets = cosine.dtype == torch.bfloat16, 1 if shifts is None else len(shifts)
    aside = far, 0 if far is None else far.shape[1], far_offset

    def launch(name, cosine, far, *rows):
        columns = cosine, half, *cosine.shape, given["targets"], offset, sets, far, *aside[1:]
        which = (name,) if version is None else (f"{name}_v", version)
        assert call(*which, *columns, float(scale), *rows) == 0

    own, others = (poisoned(len(cosine), dtype=torch.float32) for _ in range(2))
    launch("logit_sums", cosine, far, own, others)
    of_rows = gradients(len(own), others) if of_rows is None else of_rows
    slopes = {"cosine": cosine.clone(), "far": None if far is None else far.clone()}
    launch("logit_slopes", *slopes.values(), *of_rows.values())
    return (own, others), slopes, of_rows


def assert_right(call, version, given, scale=SCALE):
    before = {name: None if x is None else x.clone() for name, x in given.items()}
    sums, slopes, of_rows = launched(call, version, given, scale)
    assert all(x is None or torch.equal(x, given[name]) for name, x in before.items())
    assert_sums_are_right(sums, given, scale)
    assert_slopes_are_right(slopes, given, of_rows, scale)


def test_the_versions_of_both_are_those_of_the_index():
    assert index(SOURCE) == ["logit_sums_1", "logit_sums_2", "logit_slopes_1", "logit_slopes_2"]


@each_version
@halves
@pytest.mark.parametrize("scale", [1.0, 64.0])
def test_both_are_not_worse_than_torch_in_float32(call, version, dtype, scale):
    assert_right(call, version, columns(4, 2501, dtype=dtype), scale)


@each_version
@halves
@pytest.mark.parametrize("count", [0, 1, 2, 7, 31, 32, 129, 520])
def test_any_number_of_columns_of_far_columns_and_of_sets(call, version, dtype, count):
    for far, sets in ((None, None), (None, 2), (0, 1), (5, None), (70, 2)):
        assert_right(call, version, columns(4, count, far, sets, dtype))


@each_version
@halves
def test_a_target_anywhere_in_a_row_that_begins_anywhere(call, version, dtype):
    given = columns(9, 27, dtype=dtype)  # rows of 54 or 108 bytes
    for place in range(0, 27, 2):
        assert_right(call, version, given | dict(targets=torch.full((9,), place)))


@each_version
@pytest.mark.parametrize("ascending", [False, True])
def test_cosines_in_order_so_that_the_largest_comes_last_or_first(call, version, ascending):
    cosine = torch.linspace(-1, 1, 700).repeat(2, 1)
    cosine = cosine if ascending else cosine.flip(1).contiguous()
    given = columns(2, 700) | dict(cosine=cosine, targets=torch.tensor([0, 699]))
    assert_right(call, version, given, 64.0)


@each_version
@halves
def test_where_there_are_no_others_their_sum_is_minus_infinity_and_their_slopes_are_0(call, version, dtype):
    masked = dict(
        cosine=torch.full((1, 70), 0.5, dtype=dtype),
        targets=torch.tensor([9]),
        offset=torch.full((1, 70), -math.inf).index_fill(1, torch.tensor([9]), 0.0),
        far=torch.full((1, 3), 0.5, dtype=dtype),
        far_offset=torch.full((1, 3), -math.inf),
    )
    alone = masked | dict(cosine=masked["cosine"][:, :1], targets=torch.tensor([0]), offset=None)
    of_rows = dict(others=torch.tensor([-math.inf]), d_own=torch.tensor([2.0]), d_others=torch.tensor([3.0]))
    for given in (alone, masked):
        (own, others), slopes, _ = launched(call, version, given, of_rows=of_rows)
        assert own.tolist() == [10] and others.tolist() == [-math.inf]
        own_column = int(given["targets"])
        assert float(slopes["cosine"][0, own_column]) == 40 and float(slopes["cosine"].float().sum()) == 40
        assert not slopes["far"].any()


@each_version
@halves
def test_a_nan_is_not_hidden_and_stays_in_its_row(call, version, dtype):
    given = columns(5, 203, 40, 1, dtype)
    given["targets"] = torch.tensor([7, 7, 7, -1, 7])
    given["cosine"][1, 150] = given["cosine"][2, 7] = given["far"][3, 39] = math.nan
    (own, others), slopes, _ = launched(call, version, given)
    assert own.isnan().tolist() == [False, False, True, False, False]
    assert others.isnan().tolist() == [False, True, False, True, False]
    nans = torch.cat([slopes["cosine"], slopes["far"]], dim=1).isnan()
    assert nans.sum(dim=1).tolist() == [0, 242, 0, 243, 0]  # the target's slope needs no cosine


@each_version
def test_huge_scales_overflow_nowhere(call, version):
    given = columns(4, 90, 20)
    (own, others), slopes, _ = launched(call, version, given, 1e8)
    assert own.isfinite().all() and others.isfinite().all()
    assert all(slope.isfinite().all() for slope in slopes.values())


# -------------------------------------------------------------------------------------------------- launchers


def test_the_launchers_of_the_ops_are_the_last_versions(call):
    given = columns(3, 50, 9, 1)
    (last, expected, _), (ops, slopes, _) = (launched(call, version, given) for version in (2, None))
    assert all(map(torch.equal, ops, last)) and all(map(torch.equal, slopes.values(), expected.values()))


@each_version
def test_a_target_out_of_range_is_that_of_no_column(call, version):
    """The ops refuse it on the CPU; on a GPU nobody looks, and memory outside the row is not touched."""
    given = columns(4, 50)
    beyond = launched(call, version, given | dict(targets=torch.tensor([50, -2, 1 << 40, 3])))
    none = launched(call, version, given | dict(targets=torch.tensor([-1, -1, -1, 3])))
    assert all(map(torch.equal, beyond[0], none[0])) and torch.equal(beyond[1]["cosine"], none[1]["cosine"])


@each_version
def test_no_rows(call, version):
    sums, slopes, _ = launched(call, version, columns(0, 8, 3))
    assert all(len(x) == 0 for x in (*sums, *slopes.values()))


def test_a_version_that_is_not_there_changes_nothing(call):
    cosine, own, others = poisoned(1, 8, dtype=torch.float32), *(poisoned(1, dtype=torch.float32) for _ in "ab")
    for name in ("logit_sums_v", "logit_slopes_v"):
        rows = (own, others) if name == "logit_sums_v" else (own, own, own)
        columns = cosine, False, 1, 8, torch.tensor([1]), None, 1, None, 0, None
        assert call(name, 3, *columns, 1.0, *rows) == 100
    assert all(map(is_poisoned, (cosine, own, others)))
