"""``write_codes_``, ``kmeans_sums`` and ``far_offsets`` against plain torch, on every instruction set."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_examples import kmeans_sums_torch

from annsoftmax_ref import backend
from annsoftmax_ref.beyond.far import far_classes
from annsoftmax_ref.lists import InvertedLists
from kernels_inline import build
from kernels_inline.lists_ops import far_offsets, kmeans_sums, write_codes_

pytestmark = pytest.mark.skipif(not build.available(), reason=str(build.why_not()))


def lists(n=300, words=3, nlist=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-(2**62), 2**62, (n, words), generator=generator)
    return InvertedLists(torch.randint(nlist, (n,), generator=generator), codes, nlist)


def arguments(ids=(5, 299, 0), seed=1):
    one = lists()
    fresh = torch.randint(-(2**62), 2**62, (len(ids), 3), generator=torch.Generator().manual_seed(seed))
    return (one.codes, one.slot_codes, torch.zeros(300, dtype=torch.int32), one.assignment, one.place,
            torch.tensor(ids), fresh, torch.tensor(4, dtype=torch.int32))  # fmt: skip


@pytest.mark.parametrize("flags", build.VARIANTS.values(), ids=build.VARIANTS)
def test_writes_what_torch_writes(flags):
    codes, slot_codes, written, *_, ids, fresh, clock = call = arguments()
    twin = lists()
    with backend.use("torch"):
        twin.write_codes(ids, fresh)
    with build.using(flags):
        write_codes_(*call)
    assert torch.equal(codes, twin.codes) and torch.equal(slot_codes, twin.slot_codes)
    assert written.nonzero().squeeze(1).tolist() == [0, 5, 299] and written.max() == clock


def test_opcheck():
    torch.library.opcheck(write_codes_.registered, arguments())
    torch.library.opcheck(kmeans_sums.registered, (torch.randn(2, 70), torch.tensor([1, 1]), 4))


def test_ids_outside_are_refused_with_nothing_written():
    call = arguments(ids=(1, 300))
    before = [t.clone() for t in call[:3]]
    with pytest.raises(ValueError, match="ids holds a row that is not in 0..299"):
        write_codes_(*call)
    assert all(torch.equal(a, b) for a, b in zip(before, call, strict=False))
    with pytest.raises(ValueError, match="fresh is"):
        write_codes_(*call[:6], call[6][:1], call[7])


@given(
    dim=st.sampled_from([1, 5, 16, 63, 64, 65, 100, 128, 200]),
    count=st.integers(0, 50),
    nlist=st.integers(1, 40),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=60, deadline=None)
def test_kmeans_sums_is_no_worse_than_plain_torch(dim, count, nlist, seed):
    generator = torch.Generator().manual_seed(seed)
    rows, lists = torch.randn(count, dim, generator=generator), torch.randint(nlist, (count,), generator=generator)
    exact = torch.zeros(nlist, dim, dtype=torch.float64).index_add_(0, lists, rows.double())
    plain, plain_counts = kmeans_sums_torch(rows, lists, nlist)
    for flags in build.runnable_variants().values():
        with build.using(flags):
            sums, counts = kmeans_sums(rows, lists, nlist)
        assert torch.equal(counts, plain_counts)
        if count:
            assert (sums - exact).abs().max() <= (plain - exact).abs().max() + 1e-12


def test_threads_do_not_change_the_sums():
    rows, numbers = torch.randn(5000, 40), torch.randint(30, (5000,))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(kmeans_sums(rows, numbers, 30))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_bad_input_of_the_sums_is_one_sentence():
    rows, numbers = torch.randn(9, 6), torch.tensor([0, 3])
    for given_, nlist, message in (
        (rows, 4, r"lists is torch.int64 of shape \[2\] on cpu; it should be .* of shape \[9\]"),
        (rows[:2], 3, r"lists holds a list number that is not in 0\.\.2"),
        (rows[:2], 0, "nlist is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            kmeans_sums(given_, numbers, nlist)


def far_arguments(sets=3, active=40, n=200, nlist=9, dim=70, seed=0):
    generator = torch.Generator().manual_seed(seed)
    classes = torch.stack([torch.randperm(n, generator=generator)[:active].sort().values for _ in range(sets)])
    assignment = torch.randint(nlist, (n,), generator=generator)
    means = torch.randn(nlist, dim, generator=generator) / dim
    return classes, assignment, torch.bincount(assignment, minlength=nlist), means, 16.0


@pytest.mark.parametrize("active", [0, 40, 200])  # all classes: every list leaves out none, -inf
def test_far_offsets_equal_torch(active):
    classes, assignment, sizes, means, scale = arguments = far_arguments(active=active)
    with backend.use("torch"):
        theirs = far_classes(*arguments).offsets
    torch.testing.assert_close(far_offsets(*arguments), theirs)
    assert bool(theirs.isinf().all()) == (active == 200)


def test_far_offsets_pass_opcheck_and_refuse_classes_out_of_range():
    classes, *others = far_arguments()
    torch.library.opcheck(far_offsets.registered, (classes, *others))
    classes[1, 2] = 200
    with pytest.raises(ValueError, match=r"classes holds a number that is not in 0\.\.199"):
        far_offsets(classes, *others)
