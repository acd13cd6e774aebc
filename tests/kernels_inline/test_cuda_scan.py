"""scan.cu: every version of ivf_scan against its torch twin, number for number."""

import pytest
import torch
from cuda_runners import RUNNERS, poisoned, runner, versions
from kernel_examples import make_lists, make_probes, random_words

from annsoftmax_ref import backend
from kernels_inline.scan_ops import _scan_torch, ivf_scan, ivf_scan_torch

by_version = pytest.mark.parametrize("version", versions("scan.cu", "ivf_scan"))


@pytest.fixture(params=RUNNERS)
def scan(request):
    return runner(request.param, "scan.cu")


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


def test_a_version_that_does_not_exist(scan):
    assert scan("ivf_scan_v", 4, *[None] * 5, *[0] * 10, None, None) == 100


def test_the_op_runs_the_kernel_under_the_backend_emulator():
    lists, generator = make_lists(300, 64, 4)
    queries, probed = random_words(2, 1, 1, generator=generator), make_probes(2, 4, 2, generator)
    arguments = queries, probed, *lists.values(), 10, 300, 64
    with backend.use("emulator"):
        found = ivf_scan(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(found, ivf_scan_torch(*arguments), strict=True))
