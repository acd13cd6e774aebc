"""threshold.cu and flat.cu: every version against the torch twins, number for number (these: test_kernels_flat.py)."""

import pytest
import torch
from cuda_runners import RUNNERS, poisoned, runner, versions
from test_kernels_flat import make_flat, make_starts

from kernels_inline.flat_ops import flat_map_torch, flat_thresholds_torch

by_threshold_version = pytest.mark.parametrize("version", versions("threshold.cu", "flat_thresholds"))
by_map_version = pytest.mark.parametrize("version", versions("flat.cu", "flat_map"))
by_count = pytest.mark.parametrize("count", [1, 2])


@pytest.fixture(params=RUNNERS)
def threshold(request):
    return runner(request.param, "threshold.cu")


@pytest.fixture(params=RUNNERS)
def flat(request):
    return runner(request.param, "flat.cu")


# ---------------------------------------------------------------------------------------------------------- thresholds


def assert_thresholds(call, version, planes, codes, dim, k, stride, first):
    batch, count, words = planes.shape
    found = poisoned(batch, dtype=torch.int32)
    sizes = batch, count, words, len(codes), dim * (2**count - 1), k, stride, first
    assert call("flat_thresholds_v", version, planes, codes, *sizes, found) == 0
    assert torch.equal(found, flat_thresholds_torch(planes, codes, dim, k, stride, first))


@by_threshold_version
@by_count
@pytest.mark.parametrize(
    "batch, num_rows, dim, k, stride, first, kinds",
    [
        (3, 700, 128, 40, 1, 0, None),
        (10, 300, 512, 20, 4, 3, None),  # more queries than share a block
        (2, 501, 100, 500, 8, 5, None),  # N not a multiple of the stride
        (1, 90, 65, 90, 1, 0, 3),  # all classes
        (1, 90, 7, 91, 1, 0, None),  # more than there are
        (5, 64, 64, 10, 8, 7, 1),  # all equal
        (2, 1, 33, 1, 8, 0, None),  # one class
        (4, 3, 130, 16, 8, 2, None),  # a sample of one class, too few
        (1, 9000, 512, 4500, 2, 1, None),  # a sample of more than one block's share
        (9, 20, 1000, 2, 1, 0, None),  # few histograms fit into shared memory, or a half of them
    ],
)
def test_thresholds_equal_plain_torch(threshold, version, count, batch, num_rows, dim, k, stride, first, kinds):
    planes, codes, _ = make_flat(batch, count, num_rows, dim, seed=dim, kinds=kinds)
    assert_thresholds(threshold, version, planes, codes, dim, k, stride, first)


@by_threshold_version
def test_a_histogram_that_does_not_fit_into_shared_memory(threshold, version):
    planes, codes, _ = make_flat(2, 2, 40, 4100)
    assert_thresholds(threshold, version, planes, codes, 4100, 8, 1, 0)


def test_thresholds_of_no_queries_and_of_an_unknown_version(threshold):
    planes, codes, _ = make_flat(0, 1, 40, 64)
    assert_thresholds(threshold, 2, planes, codes, 64, 8, 1, 0)
    assert threshold("flat_thresholds_v", 3, *[None] * 2, *[0] * 8, None) == 100


# ----------------------------------------------------------------------------------------------------------------- map


def assert_map(call, version, planes, thresholds, codes, starts, dim, shift):
    (batch, count, words), groups = planes.shape, len(starts) - 1
    found = poisoned(groups, len(codes), dtype=torch.uint8)
    sizes = batch, groups, count, words, len(codes), dim * (2**count - 1), shift
    assert call("flat_map_v", version, planes, thresholds, codes, starts, *sizes, found) == 0
    assert torch.equal(found, flat_map_torch(planes, thresholds, codes, starts, dim, shift))
    return found


@by_map_version
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
    thresholds = flat_thresholds_torch(planes, codes, dim, max(1, num_rows // 5), 1)
    thresholds += torch.randint(-9, 10, (batch,), generator=generator, dtype=torch.int32)
    assert_map(flat, version, planes, thresholds, codes, make_starts(batch, groups, generator), dim, shift)


@by_map_version
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
    thresholds = flat_thresholds_torch(planes, codes, 1024, 30, 1)
    for starts in (torch.tensor([0, 520]), torch.tensor([0, 3, 513, 520])):
        assert_map(flat, 4, planes, thresholds, codes, starts, 1024, 0)


def test_more_classes_than_one_round_of_the_grid(flat):
    """Version 4 has at most 528 blocks of 256 classes, which go on to further classes with the same queries."""
    planes, codes, _ = make_flat(3, 1, 135_500, 32)
    thresholds = flat_thresholds_torch(planes, codes, 32, 1000, 8)
    assert_map(flat, 4, planes, thresholds, codes, torch.tensor([0, 3]), 32, 0)


def test_a_map_of_no_queries_and_an_unknown_version(flat):
    planes, codes, _ = make_flat(0, 2, 40, 64)
    for version in (1, 2, 3, 4):
        nothing = torch.zeros(0, dtype=torch.int32)
        assert (assert_map(flat, version, planes, nothing, codes, torch.tensor([0, 0]), 64, 0) == 0).all()
    assert flat("flat_map_v", 5, *[None] * 4, *[0] * 7, None) == 100
