"""list_sizes.py: the defaults are where the stated cost is least, and what a head takes."""

import math

import pytest

from annsoftmax_ref import NearestClasses
from annsoftmax_ref.list_sizes import FEW, LIST, default_nlist, default_nprobe


def cost(num_classes, nlist):
    """Of a sample, in codes: as the docstring of default_nlist has it."""
    return LIST * nlist + 2 * math.sqrt(nlist) * num_classes / nlist


@pytest.mark.parametrize("num_classes", [100_000, 300_000, 1_000_000, 5_000_000, 300_000_000])
def test_no_other_power_of_two_is_noticeably_cheaper(num_classes):
    cheapest = min(cost(num_classes, 2**power) for power in range(30))
    assert cost(num_classes, default_nlist(num_classes)) <= 1.03 * cheapest


@pytest.mark.parametrize(
    "num_classes, nlist, nprobe",
    [(5_204, 64, 16), (20_000, 128, 23), (200_000, 256, 32), (1_000_000, 512, 46), (5_000_000, 2048, 91)],
)
def test_a_head_takes_the_defaults(num_classes, nlist, nprobe):
    assert (default_nlist(num_classes), default_nprobe(nlist)) == (nlist, nprobe)
    if num_classes <= 20_000:
        selector = NearestClasses()
        selector.bind(num_classes, 4)
        assert (selector.nlist, selector.nprobe) == (nlist, nprobe)


def test_lists_are_never_more_than_classes_nor_probes_more_than_lists():
    for num_classes in range(1, 300):
        nlist = default_nlist(num_classes)
        assert 1 <= default_nprobe(nlist) <= nlist <= min(num_classes, FEW)


def test_the_probed_lists_hold_many_times_the_candidates_of_a_full_batch():
    """256 samples and a tenth of the classes, in one group or in eight."""
    for num_classes in (5_204, 20_000, 200_000, 1_000_000, 5_000_000):
        nlist = default_nlist(num_classes)
        for groups in (1, 8):
            candidates = max(64, num_classes // 10 // (256 // groups))
            assert default_nprobe(nlist) * num_classes / nlist > 7 * candidates
