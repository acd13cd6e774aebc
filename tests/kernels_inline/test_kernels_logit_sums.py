"""logit_sums and logit_slopes_ against float64, beside plain torch in float32."""

import math

import pytest
import torch
from logit_examples import SCALE, assert_slopes_are_right, assert_sums_are_right, columns, exactly, gradients

from annsoftmax_ref import make_objective
from kernels_inline import build
from kernels_inline.logit_sums_ops import logit_slopes_, logit_slopes_torch_, logit_sums, logit_sums_torch
from kernels_inline.softmax_ops import KINDS, margin_softmax_

pytestmark = pytest.mark.skipif(not build.available(), reason=str(build.why_not()))
variants = pytest.mark.parametrize("flags", build.VARIANTS.values(), ids=build.VARIANTS)
halves = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def sums_and_slopes(given, scale=SCALE, of_rows=None):
    """(own, others), {cosine, far: their slopes}, what the slopes were made of."""
    sums = logit_sums(**given, scale=scale)
    of_rows = gradients(len(sums[0]), sums[1]) if of_rows is None else of_rows
    slopes = {name: None if given[name] is None else given[name].clone() for name in ("cosine", "far")}
    logit_slopes_(**given | slopes, **of_rows, scale=scale)
    return sums, slopes, of_rows


def assert_right(given, scale=SCALE):
    sums, slopes, of_rows = sums_and_slopes(given, scale)
    assert_sums_are_right(sums, given, scale)
    assert_slopes_are_right(slopes, given, of_rows, scale)


# ------------------------------------------------------------------------------------------------------ what they are


@variants
@halves
@pytest.mark.parametrize("scale", [1.0, 30.1, 64.0])
def test_both_are_not_worse_than_torch_in_float32(flags, dtype, scale):
    with build.using(flags):
        assert_right(columns(7, 3000, dtype=dtype), scale)


@halves
@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 1023, 1024, 1025, 2100])
@pytest.mark.parametrize("far", [None, 0, 1, 70])
@pytest.mark.parametrize("sets", [None, 1, 3])
def test_any_number_of_columns_of_far_columns_and_of_sets(dtype, count, far, sets):
    assert_right(columns(6, count, far, sets, dtype))


def test_offsets_on_one_side_alone():
    given = columns(6, 50, 9, 3)
    assert_right(given | dict(offset=None))
    assert_right(given | dict(far_offset=None))


@pytest.mark.parametrize("count", [0, 5])
def test_no_rows(count):
    own, others = logit_sums(torch.empty(0, count), torch.empty(0, dtype=torch.int64), 1.0)
    assert own.shape == others.shape == (0,)
    none = torch.empty(0)
    assert logit_slopes_(torch.empty(0, count), torch.empty(0, dtype=torch.int64), 1.0, none, none, none) is None


def test_shards_together_say_what_one_process_says_by_itself():
    """Three processes, the last with no columns: their numbers added up are those over all columns, and the loss and
    the slopes from there those of margin_softmax_."""
    given = columns(5, 90, far=12, sets=1)
    targets = given["targets"] = torch.tensor([0, 29, 30, 88, 89])
    parts = [slice(0, 30), slice(30, 90), slice(90, 90)]
    shards = []
    for n, part in enumerate(parts):
        here = (targets >= part.start) & (targets < part.stop)
        own = dict(cosine=given["cosine"][:, part].contiguous(), offset=given["offset"][:, part].contiguous())
        far = dict(far=given["far"].clone(), far_offset=given["far_offset"]) if n == 1 else {}
        shards.append(own | far | dict(targets=torch.where(here, targets - part.start, -1)))
    sums = [logit_sums(**shard, scale=SCALE) for shard in shards]
    own = torch.stack([own for own, _ in sums]).sum(dim=0).requires_grad_()
    others = torch.stack([others for _, others in sums]).logsumexp(dim=0).requires_grad_()
    for kind in ("cross_entropy", "cosface"):
        losses = make_objective(kind, SCALE).loss_of_sums(own, others)
        d_own, d_others = (d.contiguous() for d in torch.autograd.grad(losses.sum() / 5, (own, others)))
        slopes = [shard | dict(cosine=shard["cosine"].clone()) for shard in shards]
        slopes[1]["far"] = slopes[1]["far"].clone()
        for slope in slopes:
            logit_slopes_(**slope, scale=SCALE, others=others.detach(), d_own=d_own, d_others=d_others)
        whole, far = given["cosine"].clone(), given["far"].clone()
        margin = make_objective(kind, SCALE).margin
        expected = margin_softmax_(
            whole, targets, KINDS[kind], SCALE, margin, 1 / 5, given["offset"], far, given["far_offset"]
        )
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(torch.cat([s["cosine"] for s in slopes], dim=1), whole, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(slopes[1]["far"], far, rtol=1e-4, atol=1e-7)


# ---------------------------------------------------------------------------------------------------------- the edges


@variants
@halves
def test_where_there_are_no_others_their_sum_is_minus_infinity_and_their_slopes_are_0(flags, dtype):
    """A sample alone with its own class, and one whose other columns stand for nothing."""
    alone = dict(cosine=torch.full((1, 1), 0.5, dtype=dtype), targets=torch.tensor([0]), offset=None)
    masked = dict(
        cosine=torch.full((1, 70), 0.5, dtype=dtype),
        targets=torch.tensor([9]),
        offset=torch.full((1, 70), -math.inf).index_fill(1, torch.tensor([9]), 0.0),
        far=torch.full((1, 3), 0.5, dtype=dtype),
        far_offset=torch.full((1, 3), -math.inf),
    )
    of_rows = dict(others=torch.tensor([-math.inf]), d_own=torch.tensor([2.0]), d_others=torch.tensor([3.0]))
    for given in (dict(far=None, far_offset=None) | alone, masked):
        with build.using(flags):
            (own, others), slopes, _ = sums_and_slopes(given, of_rows=of_rows)
        assert own.tolist() == [10] and others.tolist() == [-math.inf]
        own_column = int(given["targets"])
        assert float(slopes["cosine"][0, own_column]) == 40 and float(slopes["cosine"].float().sum()) == 40
        assert slopes["far"] is None or not slopes["far"].any()


@variants
@halves
def test_a_nan_is_not_hidden_and_stays_in_its_row(flags, dtype):
    given = columns(6, 1100, 40, 1, dtype=dtype)
    given["targets"] = torch.tensor([7, 7, 7, -1, 7, 7])
    given["cosine"][1, 150] = given["cosine"][2, 7] = given["far"][3, 39] = math.nan
    with build.using(flags):
        (own, others), slopes, _ = sums_and_slopes(given)
    assert own.isnan().tolist() == [False, False, True, False, False, False]
    assert others.isnan().tolist() == [False, True, False, True, False, False]
    nans = torch.cat([slopes["cosine"], slopes["far"]], dim=1).isnan()
    assert (nans.sum(dim=1) == torch.tensor([0, 1139, 0, 1140, 0, 0])).all()  # the target's slope needs no cosine


@pytest.mark.parametrize("scale", [1e-3, 1e4, 1e8])
def test_scales_of_any_size_overflow_nowhere(scale):
    given = columns(4, 300, 20)
    sums, slopes, of_rows = sums_and_slopes(given, scale)
    exact = logit_sums_torch(**exactly(given), scale=scale)
    for ours, theirs in zip(sums, exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-6)
    assert all(slope.isfinite().all() for slope in slopes.values())
    assert torch.equal(slopes["cosine"][0, given["targets"][0]], (scale * of_rows["d_own"][0].double()).float())


def test_threads_do_not_change_a_bit():
    given, results = columns(9, 70_000, 500, 3), []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            sums, slopes, _ = sums_and_slopes(given)
            results.append([*sums, *slopes.values()])
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_the_twin_s_slopes_are_the_gradient_of_its_sums():
    given = exactly(columns(6, 40, 5, 2))
    given |= dict(cosine=given["cosine"].requires_grad_(), far=given["far"].requires_grad_())
    own, others = logit_sums_torch(**given, scale=SCALE)
    d_own, d_others = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).double()
    expected = torch.autograd.grad((own * d_own + others * d_others).sum(), (given["cosine"], given["far"]))
    slopes = {name: None if x is None else x.detach().clone() for name, x in given.items()}
    logit_slopes_torch_(**slopes, scale=SCALE, others=others.detach(), d_own=d_own, d_others=d_others)
    torch.testing.assert_close((slopes["cosine"], slopes["far"]), expected)


# --------------------------------------------------------------------------------------------------------------- form


@halves
def test_opcheck(dtype):
    for given in (columns(4, 30, dtype=dtype), columns(4, 30, 7, 2, dtype)):
        given = [given[name] for name in ("cosine", "targets", "offset", "far", "far_offset")]
        torch.library.opcheck(logit_sums.registered, (*given[:2], SCALE, *given[2:]))
        more = torch.full((4,), 30.0), torch.rand(4), torch.rand(4)
        torch.library.opcheck(logit_slopes_.registered, (*given[:2], SCALE, *more, *given[2:]))


WRONG = [
    (dict(cosine=torch.zeros(3, 4, dtype=torch.float64)), "cosine is torch.float64"),
    (dict(cosine=torch.zeros(4, 3).T), "cosine is .* contiguous"),
    (dict(targets=torch.zeros(2, dtype=torch.int64)), r"targets is .* shape \[2\]"),
    (dict(targets=torch.tensor([0, 1, 4])), r"targets holds a value out of range; all should lie in -1\.\.3"),
    (dict(targets=torch.tensor([0, -2, 2])), "targets holds"),
    (dict(cosine=torch.zeros(3, 0), targets=torch.tensor([-1, 0, -1])), r"all should lie in -1\.\.-1"),
    (dict(offset=torch.zeros(2, 4)), "offset has 2 rows; the 3 rows of cosines should be so many sets"),
    (dict(offset=torch.zeros(1, 3)), r"offset is .* shape \[1, 3\]"),
    (dict(far=torch.zeros(2, 5)), r"far is .* shape \[2, 5\]"),
    (dict(far=torch.zeros(3, 5).bfloat16()), "far is torch.bfloat16"),
    (dict(far=torch.zeros(3, 5), far_offset=torch.zeros(1, 4)), r"far_offset is .* shape \[1, 4\]"),
    (dict(offset=torch.zeros(3, 4), far=torch.zeros(3, 5), far_offset=torch.zeros(1, 5)), r"offset is .* \[3, 4\]"),
    (dict(far_offset=torch.zeros(1, 5)), "far_offset is given, and far is None"),
    (dict(scale=0.0), "scale is 0.0; it should be finite and above 0"),
    (dict(scale=math.nan), "scale is nan"),
]
WRONG_ROWS = [
    (dict(others=torch.zeros(3).double()), "others is torch.float64"),
    (dict(d_own=torch.zeros(2)), r"d_own is .* shape \[2\]"),
    (dict(d_others=torch.zeros(3, 1)), r"d_others is .* shape \[3, 1\]"),
]


@pytest.mark.parametrize("change, words", [*WRONG, *WRONG_ROWS])
def test_the_ops_name_what_is_wrong_and_change_nothing(change, words):
    given = dict(cosine=torch.zeros(3, 4), targets=torch.tensor([0, 1, -1]), scale=1.0)
    of_rows = dict(others=torch.zeros(3), d_own=torch.ones(3), d_others=torch.ones(3))
    with pytest.raises(ValueError, match=words):
        logit_slopes_(**given | of_rows | change)
    assert not (given | change)["cosine"].any()
    if not change.keys() & of_rows.keys():
        with pytest.raises(ValueError, match=words):
            logit_sums(**given | change)
