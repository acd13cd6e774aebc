"""``ivf_scan``: equal to plain torch, number for number, on every instruction set this CPU has."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_examples import make_lists, make_probes, random_words

from kernels_inline import build, scan_ops

pytestmark = pytest.mark.skipif(not build.available(), reason=str(build.why_not()))


def check_everywhere(kernel, twin, *arguments):
    expected = twin(*arguments)
    for name, flags in build.runnable_variants().items():
        with build.using(flags):
            for found, wanted in zip(kernel(*arguments), expected, strict=True):
                assert found.dtype == wanted.dtype
                assert torch.equal(found, wanted), name
    return expected


sizes = dict(
    num_rows=st.integers(1, 3000),
    dim=st.sampled_from([1, 7, 63, 64, 65, 100, 128, 192, 512]),
    nlist=st.integers(1, 12),
    batch=st.integers(1, 6),
    k=st.integers(1, 200),
    kinds=st.sampled_from([1, 3, None]),
    holes=st.sampled_from([0.0, 0.3, 1.0]),
    slack=st.sampled_from([0, 1, 20]),
    seed=st.integers(0, 2**20),
    data=st.data(),
)


@given(**sizes, per_list=st.booleans())
@settings(max_examples=60, deadline=None)
def test_equals_plain_torch(num_rows, dim, nlist, batch, k, kinds, holes, slack, seed, per_list, data):
    lists, generator = make_lists(num_rows, dim, nlist, seed=seed, holes=holes, kinds=kinds, slack=slack)
    nprobe = data.draw(st.integers(1, nlist))
    words = -(-dim // 64)
    queries = random_words(batch, nprobe if per_list else 1, words, generator=generator)
    queries[..., -1] &= (1 << (dim - 1) % 64) | ((1 << (dim - 1) % 64) - 1) if dim % 64 else -1
    probed = make_probes(batch, nlist, nprobe, generator)
    check_everywhere(scan_ops.ivf_scan, scan_ops.ivf_scan_torch, queries, probed, *lists.values(), k, num_rows, dim)


@given(**sizes)
@settings(max_examples=40, deadline=None)
def test_asymmetric_equals_plain_torch(num_rows, dim, nlist, batch, k, kinds, holes, slack, seed, data):
    lists, generator = make_lists(num_rows, dim, nlist, seed=seed, holes=holes, kinds=kinds, slack=slack)
    probed = make_probes(batch, nlist, data.draw(st.integers(1, nlist)), generator)
    queries = torch.nn.functional.normalize(torch.randn(batch, dim, generator=generator))
    check_everywhere(
        scan_ops.ivf_scan_asymmetric,
        scan_ops.ivf_scan_asymmetric_torch,
        queries,
        probed,
        *lists.values(),
        k,
        num_rows,
    )


@pytest.mark.parametrize("kinds", [None, 50])
def test_large_lists_where_the_sample_sets_the_bound(kinds):
    lists, generator = make_lists(60_000, 128, 20, kinds=kinds)
    queries = random_words(40, 1, 2, generator=generator)
    probed = make_probes(40, 20, 15, generator)
    check_everywhere(scan_ops.ivf_scan, scan_ops.ivf_scan_torch, queries, probed, *lists.values(), 300, 60_000, 128)


def test_a_bound_that_was_too_low_is_noticed():
    """All that is sampled is near and nearly all else is far: fewer than k stay within the sample's bound."""
    capacity, k = 20_000, 3000
    step = max(8, capacity // 8 // 512)
    slot_codes = torch.full((1, 1, capacity), -1)
    slot_codes[0, 0].unflatten(0, (-1, 8))[::step] = 0  # list 0 starts at group 0
    slots, ends = torch.arange(capacity).unsqueeze(0), torch.tensor([capacity])
    query, probed = torch.zeros(1, 1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64)
    ids, distances = check_everywhere(
        scan_ops.ivf_scan, scan_ops.ivf_scan_torch, query, probed, slots, slot_codes, ends, k, capacity, 64
    )
    assert distances[0, 0] == 0 and distances[0, -1] == 64 and ids.min() >= 0


def test_threads_do_not_change_the_result():
    lists, generator = make_lists(20_000, 64, 16, kinds=9)
    arguments = (
        random_words(33, 1, 1, generator=generator),
        make_probes(33, 16, 8, generator),
        *lists.values(),
        50,
        20_000,
        64,
    )
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(scan_ops.ivf_scan(*arguments))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("dim", [128, 512])
def test_a_rounded_query_scores_nearly_as_the_query(dim):
    generator = torch.Generator().manual_seed(0)
    queries = torch.nn.functional.normalize(torch.randn(8, dim, generator=generator))
    planes, step = scan_ops.quantise_queries(queries)
    levels = sum(((planes[:, 0, p].unsqueeze(-1) >> torch.arange(64)) & 1).flatten(1) << p for p in range(4))
    assert ((levels[:, :dim] - 7.5) * step - queries).abs().max() <= step.max() * 0.5001
    lists, generator = make_lists(500, dim, 1, holes=0.0)
    ids, scores = scan_ops.ivf_scan_asymmetric(queries, torch.zeros(8, 1, dtype=torch.int64), *lists.values(), 500, 500)
    bits = (lists["slot_codes"][0].T.unsqueeze(-1) >> torch.arange(64)) & 1
    exact = queries @ (2.0 * bits.flatten(1)[:500] - 1).T
    # Rounding errors are about uniform in +-step / 2: a standard deviation of step sqrt(d / 12), and 6 of these.
    assert (scores - exact.gather(1, ids)).abs().max() < step.max() * 6 * (dim / 12) ** 0.5


def test_passes_opcheck():
    lists, generator = make_lists(100, 70, 4)
    probed = make_probes(3, 4, 2, generator)
    queries = random_words(3, 1, 2, generator=generator) & 63
    torch.library.opcheck(scan_ops.ivf_scan.registered, (queries, probed, *lists.values(), 5, 100, 70))
    floats = torch.randn(3, 70, generator=generator)
    torch.library.opcheck(scan_ops.ivf_scan_asymmetric.registered, (floats, probed, *lists.values(), 5, 100))


def test_bad_input_is_one_sentence():
    lists, generator = make_lists(100, 64, 4)
    good = dict(
        query_codes=random_words(3, 1, 1, generator=generator),
        probed=make_probes(3, 4, 2, generator),
        **lists,
        k=5,
        num_rows=100,
        dim=64,
    )
    cases = [
        (dict(probed=torch.tensor([[4, 0]] * 3)), "probed holds a list number"),
        (dict(ends=lists["ends"] + 100), "ends holds"),
        (dict(num_rows=10, k=90), "slots holds a class id"),
        (dict(query_codes=good["query_codes"].int()), "query_codes is torch.int32"),
        (dict(query_codes=good["query_codes"][:2]), r"query_codes is .* shape \[2, 1, 1\].* should be .* \[3, 1, 1\]"),
        (dict(dim=65), r"slot_codes is .* should be .* \[4, 2, "),
        (dict(slot_codes=lists["slot_codes"][:3]), "slot_codes is"),
        (dict(ends=lists["ends"][:3]), "ends is"),
        (dict(slots=lists["slots"].T), "slots is .* strides"),
        (dict(k=0), "k is 0"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            scan_ops.ivf_scan(**{**good, **change})
    with pytest.raises(ValueError, match="queries is torch.float64"):
        scan_ops.ivf_scan_asymmetric(torch.randn(3, 64).double(), good["probed"], *lists.values(), 5, 100)
