"""flat_threshold.cu: every version against the torch twin, number for number."""

import pytest
import torch
from cuda_runners import RUNNERS, poisoned, runner, versions
from kernel_examples import make_flat

from kernels_inline.flat_threshold_ops import flat_thresholds_torch

by_version = pytest.mark.parametrize("version", versions("flat_threshold.cu", "flat_thresholds"))
by_count = pytest.mark.parametrize("count", [1, 2])


@pytest.fixture(params=RUNNERS)
def threshold(request):
    return runner(request.param, "flat_threshold.cu")


def assert_thresholds(call, version, planes, codes, dim, k, stride, first):
    first = torch.tensor(first)
    batch, count, words = planes.shape
    found = poisoned(batch, dtype=torch.int32)
    sizes = batch, count, words, len(codes), dim * (2**count - 1), k, stride, first
    assert call("flat_thresholds_v", version, planes, codes, *sizes, found) == 0
    assert torch.equal(found, flat_thresholds_torch(planes, codes, dim, k, stride, first))


@by_version
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


@by_version
def test_a_histogram_that_does_not_fit_into_shared_memory(threshold, version):
    planes, codes, _ = make_flat(2, 2, 40, 4100)
    assert_thresholds(threshold, version, planes, codes, 4100, 8, 1, 0)


def test_thresholds_of_no_queries_and_of_an_unknown_version(threshold):
    planes, codes, _ = make_flat(0, 1, 40, 64)
    assert_thresholds(threshold, 2, planes, codes, 64, 8, 1, 0)
    assert threshold("flat_thresholds_v", 4, *[None] * 2, *[0] * 7, None, None) == 100
