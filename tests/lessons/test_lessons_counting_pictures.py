"""Pictures of notebook 13: the fragments are those of the emulator's product, the ballot's word that of a warp."""

import re

import numpy as np
import pytest
from moved_controls import QUICK, move

from annsoftmax_ref.lessons import counting_pictures as pictures
from annsoftmax_ref.lessons.kernel_cells import cuda_kernel

PRODUCT = """
__global__ void product(const uint32_t* a, const uint32_t* b, int* sums) {
    uint32_t mine_a[4], mine_b[2];
    int32_t mine[4] = {};
    for (int i = 0; i < 4; ++i) mine_a[i] = a[4 * lane_id() + i];
    for (int i = 0; i < 2; ++i) mine_b[i] = b[2 * lane_id() + i];
    binary_mma(mine, mine_a, mine_b);
    for (int i = 0; i < 4; ++i) sums[4 * lane_id() + i] = mine[i];
}
"""
VALUES = np.random.default_rng(0).standard_normal(32).astype(np.float32)
BALLOT = """
__global__ void word(const float* x, int* bits) {
    bits[threadIdx.x] = int(__ballot_sync(ALL_LANES, x[threadIdx.x] > 0));
}
"""


def every(places):
    return [place for lane in range(32) for place in places(lane)]


def test_each_word_and_each_sum_is_one_lanes():
    for places, shape in ((pictures.a_places, (16, 8)), (pictures.b_places, (8, 8)), (pictures.sum_places, (16, 8))):
        assert sorted(every(places)) == list(np.ndindex(shape))


def test_words_laid_out_by_the_picture_make_the_product():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 2**32, (16, 8), np.uint32), rng.integers(0, 2**32, (8, 8), np.uint32)
    of_lanes = [
        np.array([[x[place] for place in places(lane)] for lane in range(32)]).view(np.int32)
        for x, places in ((a, pictures.a_places), (b, pictures.b_places))
    ]
    sums, found = np.zeros((32, 4), np.int32), np.zeros((16, 8), int)
    cuda_kernel(PRODUCT)[1, 32](*of_lanes, sums)
    for place, value in zip(every(pictures.sum_places), sums.flat, strict=True):
        found[place] = value
    assert np.array_equal(found, np.bitwise_count(a[:, None] & b).sum(axis=2))


def test_a_lanes_boxes_are_filled_and_named():
    picture = pictures.fragments(5)
    for colour, count in ((pictures.BLUE, 4), (pictures.ORANGE, 2), (pictures.GREEN, 4)):
        assert picture.count(f'fill="{colour}"') == count
    assert "a[2] = word 5 of row 1<" in picture and "sums[3] = row 9, query 3<" in picture
    white = re.findall(r'fill="#fff">(\d+)<', picture)
    assert "".join(white) == "05" * 10


def test_the_word_is_that_of_a_ballot():
    bits = np.zeros(32, np.int32)
    cuda_kernel(BALLOT)[1, 32](VALUES, bits)
    assert len(set(bits.tolist())) == 1
    picture = pictures.sign_ballot(VALUES, 3)
    assert f"0x{bits.view(np.uint32)[0]:08x}" in picture
    assert ("sets bit 3" if VALUES[3] > 0 else "leaves bit 3 at 0") in picture


def test_widgets_follow_their_controls():
    for box in (pictures.fragments_explorer(), pictures.sign_ballot_explorer(VALUES)):
        assert min(move(box, ("lane", 9), ("lane", 31))) < QUICK


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: pictures.fragments(32), "lane is 32; it should be from 0 to 31"),
        (lambda: pictures.sign_ballot(VALUES, -1), "lane is -1"),
        (lambda: pictures.sign_ballot(VALUES[:8], 0), r"values has shape \[8\]"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()
