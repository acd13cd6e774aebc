"""scan.cu and rerank.cu: every version of ivf_scan against its torch twin, number for number, and of rerank."""

import re

import pytest
import torch
from cuda_runners import FOLDER, RUNNERS, index, poisoned, runner, versions
from test_kernels_rerank import example
from test_kernels_search import make_lists, make_probes, random_words

from annsoftmax_ref import backend
from annsoftmax_ref import reference as ref
from annsoftmax_ref.reference.index import exact_order
from kernels_inline import build
from kernels_inline.cuda import sources
from kernels_inline.rerank_ops import rerank as rerank_op
from kernels_inline.search_ops import _scan_torch, ivf_scan, ivf_scan_torch

by_version = pytest.mark.parametrize("version", versions("scan.cu", "ivf_scan"))
by_rerank_version = pytest.mark.parametrize("version", versions("rerank.cu", "rerank"))


@pytest.fixture(params=RUNNERS)
def scan(request):
    return runner(request.param, "scan.cu")


@pytest.fixture(params=RUNNERS)
def rerank(request):
    return runner(request.param, "rerank.cu")


@pytest.mark.parametrize("file", ["scan.cu", "rerank.cu", "flat.cu", "threshold.cu"])
def test_the_index_names_every_kernel(file):
    text = (FOLDER / file).read_text()
    assert sorted(index(file)) == sorted(sources.kernel_names(text))
    assert len(text.splitlines()) < 400


# ------------------------------------------------------------------------------------------------------------ ivf_scan


def search(call, version, planes, probed, lists, k, num_rows, most):
    ids, found = poisoned(len(planes), k, dtype=torch.int64), poisoned(len(planes), k, dtype=torch.int32)
    batch, per_query, count, words = planes.shape
    sizes = batch, per_query, probed.shape[1], count, *lists["slots"].shape, words, num_rows, most, k
    assert call("ivf_scan_v", version, planes, probed.contiguous(), *lists.values(), *sizes, ids, found) == 0
    return ids, found


def assert_search(call, version, planes, probed, lists, k, num_rows, dim):
    most = dim * (2 ** planes.shape[2] - 1)
    expected = _scan_torch(planes, probed, *lists.values(), k, num_rows, most)
    found = search(call, version, planes, probed, lists, k, num_rows, most)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def random_planes(batch, per_query, count, dim, generator):
    """Bit planes [batch, per_query, count, W]; the bits from dim on are 0."""
    planes = random_words(batch, per_query, count, -(-dim // 64), generator=generator)
    if dim % 64:
        planes[..., -1] &= (1 << dim % 64) - 1
    return planes


@by_version
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(
    "num_rows, dim, nlist, nprobe, batch, k, options",
    [
        (700, 128, 5, 3, 3, 40, {}),
        (600, 512, 3, 2, 2, 100, {}),
        (500, 100, 4, 4, 3, 20, dict(slack=0)),
        (300, 65, 1, 1, 1, 300, {}),  # one query, one list
        (40, 7, 6, 3, 5, 90, {}),  # k larger than what the lists hold
        (3, 33, 9, 5, 2, 4, {}),  # empty lists
        (200, 64, 3, 3, 2, 5, dict(holes=1.0)),  # nothing but holes
        (1, 1, 1, 1, 2, 1, dict(holes=0.0)),  # one class
        (900, 192, 2, 2, 2, 7, dict(kinds=1, holes=0.1)),  # all at one distance: more ties than there is room for
        (1500, 64, 4, 4, 2, 60, dict(kinds=3)),
        (700, 513, 2, 1, 2, 1, dict(kinds=2)),
    ],
)
def test_scan_equals_plain_torch(scan, version, count, num_rows, dim, nlist, nprobe, batch, k, options):
    lists, generator = make_lists(num_rows, dim, nlist, seed=num_rows, **options)
    probed = make_probes(batch, nlist, nprobe, generator)
    planes = random_planes(batch, 1, count, dim, generator)
    assert_search(scan, version, planes, probed, lists, k, num_rows, dim)


@by_version
@pytest.mark.parametrize("count", [1, 4])
def test_a_query_with_a_code_for_each_list(scan, version, count):
    lists, generator = make_lists(500, 130, 6, kinds=40)
    planes = random_planes(3, 4, count, 130, generator)
    assert_search(scan, version, planes, make_probes(3, 6, 4, generator), lists, 30, 500, 130)


def spread_ids(generator):
    return torch.randperm(1 << 16, generator=generator)[:800] * 16, 33


def crowded_ids(generator):
    """700 ids below 2^16 and 1500 above: the rank within the higher ones decides, and there is room for 1024 keys."""
    ids = torch.cat([torch.arange(700), (1 << 16) + 32 * torch.arange(1500)])
    return ids[torch.randperm(2200, generator=generator)], 760


@by_version
@pytest.mark.parametrize("make_ids", [spread_ids, crowded_ids])
def test_ids_alone_decide_where_all_codes_are_equal(scan, version, make_ids):
    """They are found 8 bits at a time, and stand in the lists in any order."""
    ids, k = make_ids(torch.Generator().manual_seed(0))
    slots, capacity = ids.view(2, -1), len(ids) // 2
    slot_codes = torch.ones(2, 1, capacity, dtype=torch.int64)
    lists = dict(slots=slots, slot_codes=slot_codes, ends=torch.full((2,), capacity))
    planes, probed = torch.zeros(1, 1, 1, 1, dtype=torch.int64), torch.tensor([[1, 0]])
    found, distances = search(scan, version, planes, probed, lists, k, 1 << 20, 64)
    assert torch.equal(found[0], ids.sort().values[:k]) and (distances == 1).all()


@by_version
def test_histogram_and_keys_that_do_not_fit_into_shared_memory(scan, version):
    """4 planes of 1,024 bits have 15,361 distances; 6,000 codes are more than 48 KB of keys."""
    lists, generator = make_lists(100, 1024, 2)
    probed = make_probes(1, 2, 2, generator)
    assert_search(scan, version, random_planes(1, 1, 4, 1024, generator), probed, lists, 6000, 100, 1024)


def test_scan_of_no_queries(scan):
    lists, generator = make_lists(50, 64, 2)
    nothing = random_planes(0, 1, 1, 64, generator)
    ids, _ = search(scan, 3, nothing, torch.zeros(0, 2, dtype=torch.int64), lists, 5, 50, 64)
    assert ids.shape == (0, 5)


def test_a_version_that_does_not_exist(scan, rerank):
    assert scan("ivf_scan_v", 4, *[None] * 5, *[0] * 10, None, None) == 100
    assert rerank("rerank_v", 0, *[None] * 3, 0, 0, 0, None, None) == 100


def test_the_op_runs_the_kernel_under_the_backend_emulator():
    lists, generator = make_lists(300, 64, 4)
    queries, probed = random_words(2, 1, 1, generator=generator), make_probes(2, 4, 2, generator)
    arguments = queries, probed, *lists.values(), 10, 300, 64
    with backend.use("emulator"):
        found = ivf_scan(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(found, ivf_scan_torch(*arguments), strict=True))


# -------------------------------------------------------------------------------------------------------------- rerank


def ordered(call, version, queries, rows, ids):
    ids_out, cosines = poisoned(*ids.shape, dtype=torch.int64), poisoned(*ids.shape, dtype=torch.float32)
    assert call("rerank_v", version, queries, rows, ids, *ids.shape, queries.shape[1], ids_out, cosines) == 0
    return ids_out, cosines


@by_rerank_version
@pytest.mark.parametrize("n, d, b, k", [(50, 7, 3, 11), (90, 128, 2, 64), (1, 1, 1, 1), (30, 65, 2, 33), (9, 36, 4, 1)])
def test_cosines_and_order(rerank, version, n, d, b, k):
    queries, rows, ids = example(n, d, b, k)
    found, cosines = ordered(rerank, version, queries, rows, ids)
    exact = torch.from_numpy(ref.cosine_logits(queries.double().numpy(), rows.double().numpy()))
    for i in range(b):
        there = found[i] >= 0
        assert found[i].sort().values.tolist() == ids[i].sort().values.tolist()
        torch.testing.assert_close(cosines[i][there].double(), exact[i, found[i][there]], rtol=0, atol=5e-7)
        assert (cosines[i][~there] == -torch.inf).all()
        keys = list(zip((-cosines[i]).tolist(), (found[i] % (n + 1)).tolist(), strict=True))  # -1 becomes n
        assert keys == sorted(keys)


@by_rerank_version
def test_equal_rows_and_repeats_come_lower_id_first(rerank, version):
    queries, rows, ids = example(40, 24, 3, 50)
    rows = rows[torch.arange(40) // 4 * 4].contiguous()  # ties of four
    found, cosines = ordered(rerank, version, queries, rows, ids)
    unit = ref.normalize(rows.double().numpy())
    for i, query in enumerate(queries.double().numpy()):
        expected, exact = exact_order(query, unit, ids[i][ids[i] >= 0].numpy())
        assert found[i, : len(expected)].tolist() == expected.tolist() and (found[i, len(expected) :] == -1).all()
        torch.testing.assert_close(cosines[i, : len(exact)].double(), torch.from_numpy(exact), rtol=0, atol=5e-7)


@by_rerank_version
def test_zeros_opposites_and_signs(rerank, version):
    """A row of zeros has cosine 0, as has a perpendicular one; the first row's is -0, and 0 and -0 are equal."""
    rows = torch.tensor([[-1e-30, 1e18], [-1, 0], [0, 0], [3, 0], [0, 5]])
    queries, ids = torch.tensor([[1.0, 0], [-1, 0]]), torch.tensor([[4, 3, -1, 2, 1, 0]] * 2)
    found, cosines = ordered(rerank, version, queries, rows, ids)
    assert found.tolist() == [[3, 0, 2, 4, 1, -1], [1, 0, 2, 4, 3, -1]]
    assert cosines.tolist() == [[1, 0, 0, 0, -1, -torch.inf]] * 2


def test_keys_that_do_not_fit_into_shared_memory(rerank):
    queries, rows, ids = example(50, 4, 1, 6200)
    found, cosines = ordered(rerank, 3, queries, rows, ids)
    there = int((ids >= 0).sum())
    assert found.sort().values.tolist() == ids.sort().values.tolist() and (found[0, there:] == -1).all()
    assert (cosines[0, :there].diff() <= 0).all()


@pytest.mark.skipif(not build.available(), reason=str(build.why_not()))
def test_rerank_gives_what_the_cpu_kernel_gives(rerank):
    queries, rows, ids = example(60, 40, 3, 20)
    found, cosines = ordered(rerank, 3, queries, rows, ids)
    expected, exact = rerank_op(queries, rows, ids)
    assert torch.equal(found, expected)
    torch.testing.assert_close(cosines, exact, rtol=0, atol=5e-7)


def test_launchers_have_the_arguments_of_their_cpu_twins():
    folder = FOLDER.parent
    for cuda, cpp, name in (("scan.cu", "search.cpp", "ivf_scan"), ("rerank.cu", "rerank.cpp", "rerank")):
        there = re.search(rf"int64_t {name}\(([^)]*)\)", (folder / cpp).read_text()).group(1)
        here = sources.launchers((FOLDER / cuda).read_text())[name]
        assert here == [*(" ".join(one.split()) for one in there.split(",")), "void* stream"]
