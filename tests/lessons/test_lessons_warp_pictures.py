"""Steps of a warp: the picture's sums are those of the emulator's warp, its places those of a ballot's bits."""

import re

import numpy as np
import pytest
import torch
from moved_controls import QUICK, move

from annsoftmax_ref.lessons import warp_pictures as pictures
from annsoftmax_ref.lessons.kernel_cells import cuda_kernel

VALUES = np.random.default_rng(0).integers(0, 20, 32).astype(np.int32)
YES = np.random.default_rng(1).random(32) < 0.4
WARP = """
__global__ void warp(const int* x, int* sums, int* places) {
    int value = x[threadIdx.x];
    for (int step = 0, apart = WARP / 2; apart > 0; apart /= 2, ++step) {
        value += __shfl_xor_sync(ALL_LANES, value, apart);
        sums[32 * step + threadIdx.x] = value;
    }
    const unsigned mask = __ballot_sync(ALL_LANES, x[threadIdx.x] > 9);
    places[threadIdx.x] = __popc(mask & ((1u << threadIdx.x) - 1));
}
"""


def test_sums_and_places_are_those_of_a_warp():
    sums, places = torch.zeros(5, 32, dtype=torch.int32), torch.zeros(32, dtype=torch.int32)
    cuda_kernel(WARP)[1, 32](VALUES, sums, places)
    assert np.array_equal(np.stack(pictures.sums_by_shuffle(VALUES)[1:]), sums.numpy())
    for lane in range(32):
        assert f"= {places[lane]} lanes before it said yes" in pictures.ballot(VALUES > 9, lane)


def test_a_step_names_both_values_and_their_sum():
    picture = pictures.reduction(VALUES, 1, 3)
    assert f"lane 3: {VALUES[3]} + {VALUES[19]} of lane 19 = {VALUES[3] + VALUES[19]}" in picture
    assert "Different values in the warp: 1<" in pictures.reduction(VALUES, 5, 0)


def test_a_ballot_s_mask_and_what_is_written():
    picture = pictures.ballot(YES, 31)
    assert f"0x{sum(1 << i for i in range(32) if YES[i]):08x}" in picture
    written = picture[picture.index("written") :]
    assert re.findall(r">(\d+)</text>", written) == [str(i) for i in np.flatnonzero(YES)]


def test_a_tile_s_distances_and_what_is_kept():
    query, codes = np.tile([0, 1], 8), np.stack([np.tile([0, 1], 8), np.zeros(16, int), np.tile([1, 0], 8)])
    picture = pictures.tile_scan(query, codes, 3, 8)
    assert re.findall(r"popcount (\d+(?:, kept)?)<", picture) == ["0, kept", "8, kept", "16"]
    assert "3 of 3 codes scanned, 2 with a distance of at most 8" in picture
    assert "popcount" not in pictures.tile_scan(query, codes, 0, 8)
    assert picture.count("#c9791a") == 8 + 16


def test_widgets_follow_their_controls():
    for box, moves in (
        (pictures.reduction_explorer(VALUES), (("step", 3), ("lane", 7))),
        (pictures.ballot_explorer(YES), (("lane", 9),)),
        (pictures.tile_scan_explorer([0, 1, 1], [[0, 1, 0], [1, 1, 1]]), (("scanned", 1), ("threshold", 0))),
    ):
        assert min(move(box, *moves)) < QUICK


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: pictures.reduction(VALUES[:31], 1, 0), r"values has shape \[31\]"),
        (lambda: pictures.reduction(VALUES, 6, 0), "step is 6"),
        (lambda: pictures.ballot(YES, 32), "lane is 32"),
        (lambda: pictures.tile_scan([0, 1], [[0], [1]], 1, 1), r"codes has shape \[2, 1\]"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()
