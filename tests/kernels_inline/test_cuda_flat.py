"""flat.cu: every version against the torch twin, number for number."""

import pytest
import torch
from cuda_runners import RUNNERS, poisoned, runner, versions
from kernel_examples import make_flat, make_starts

from kernels_inline.flat_ops import flat_map_torch
from kernels_inline.flat_threshold_ops import flat_thresholds_torch

by_version = pytest.mark.parametrize("version", versions("flat.cu", "flat_map"))
by_count = pytest.mark.parametrize("count", [1, 2])


@pytest.fixture(params=RUNNERS)
def flat(request):
    return runner(request.param, "flat.cu")


def assert_map(call, version, planes, thresholds, codes, starts, dim, shift):
    (batch, count, words), groups = planes.shape, len(starts) - 1
    found = poisoned(groups, len(codes), dtype=torch.uint8)
    sizes = batch, groups, count, words, len(codes), dim * (2**count - 1), shift
    assert call("flat_map_v", version, planes, thresholds, codes, starts, *sizes, found) == 0
    assert torch.equal(found, flat_map_torch(planes, thresholds, codes, starts, dim, shift))
    return found


@by_version
@by_count
@pytest.mark.parametrize(
    "batch, num_rows, dim, groups, shift, kinds",
    [
        (5, 700, 128, 2, 0, None),
        (13, 300, 512, 3, 1, None),
        (3, 257, 100, 1, 0, None),
        (1, 31, 65, 1, 0, 3),  # one query
        (9, 40, 7, 6, 2, None),  # empty groups
        (4, 1, 33, 2, 0, None),  # one class
        (70, 300, 128, 1, 0, None),  # more queries than a tile of versions 2 and 3 holds
        (35, 256, 64, 2, 0, 1),  # all equal
        (6, 90, 300, 2, 1, 5),  # 5 words: more than one step of 256 bits, the last one not full
        (6, 70, 1000, 2, 3, None),
        (3, 33, 1025, 2, 1, None),  # too wide for the tensor cores: version 3 instead
    ],
)
def test_map_equals_plain_torch(flat, version, count, batch, num_rows, dim, groups, shift, kinds):
    planes, codes, generator = make_flat(batch, count, num_rows, dim, seed=dim, kinds=kinds)
    thresholds = flat_thresholds_torch(planes, codes, dim, max(1, num_rows // 5), 1, torch.tensor(0))
    thresholds += torch.randint(-9, 10, (batch,), generator=generator, dtype=torch.int32)
    assert_map(flat, version, planes, thresholds, codes, make_starts(batch, groups, generator), dim, shift)


@by_version
def test_bytes_at_both_ends(flat, version):
    """Margins from -2^28 to 2^28 are cut to 0 and 254."""
    planes, codes, _ = make_flat(4, 1, 40, 64)
    thresholds = torch.tensor([1 << 28, -(1 << 28), 100, -200], dtype=torch.int32)
    found = assert_map(flat, version, planes, thresholds, codes, torch.arange(5), 64, 0)
    assert (found[0] == 0).all() and (found[1] == 254).all()


@by_count
def test_more_queries_than_fit_into_shared_memory(flat, count):
    """At 1,024 bits, 500 queries of one plane are held at a time, or 250 of two; then the next are read."""
    planes, codes, _ = make_flat(520, count, 300, 1024)
    thresholds = flat_thresholds_torch(planes, codes, 1024, 30, 1, torch.tensor(0))
    for starts in (torch.tensor([0, 520]), torch.tensor([0, 3, 513, 520])):
        assert_map(flat, 4, planes, thresholds, codes, starts, 1024, 0)


def test_more_classes_than_one_round_of_the_grid(flat):
    """Version 4 has at most 528 blocks of 256 classes, which go on to further classes with the same queries."""
    planes, codes, _ = make_flat(3, 1, 135_500, 32)
    thresholds = flat_thresholds_torch(planes, codes, 32, 1000, 8, torch.tensor(0))
    assert_map(flat, 4, planes, thresholds, codes, torch.tensor([0, 3]), 32, 0)


def test_a_map_of_no_queries_and_an_unknown_version(flat):
    planes, codes, _ = make_flat(0, 2, 40, 64)
    for version in (1, 2, 3, 4):
        nothing = torch.zeros(0, dtype=torch.int32)
        assert (assert_map(flat, version, planes, nothing, codes, torch.tensor([0, 0]), 64, 0) == 0).all()
    assert flat("flat_map_v", 5, *[None] * 4, *[0] * 7, None) == 100
