"""Notebook 14's pictures: a scan's steps are a warp's, the cut is the reference's, the online softmax is a softmax."""

import re

import numpy as np
import pytest
from moved_controls import QUICK, move

from annsoftmax_ref import reference as ref
from annsoftmax_ref.lessons import choosing
from annsoftmax_ref.lessons.kernel_cells import cuda_kernel

VALUES = np.random.default_rng(0).integers(0, 9, 32).astype(np.int32)
SCORES, LABELS = np.random.default_rng(1).integers(0, 12, 30), [3, 17]
LOGITS = np.array([1.0, -2, 4, 4, 3, 9, 0])
SCAN = """
__global__ void scan(const int* x, int* steps) {
    int value = x[threadIdx.x];
    for (int step = 0, apart = 1; apart < WARP; apart *= 2, ++step) {
        const int before = __shfl_up_sync(ALL_LANES, value, apart);
        if (lane_id() >= apart) value += before;
        steps[32 * step + threadIdx.x] = value;
    }
}
"""


def test_the_steps_of_a_scan_are_those_of_a_warp():
    steps = np.zeros((5, 32), np.int32)
    cuda_kernel(SCAN)[1, 32](VALUES, steps)
    assert np.array_equal(np.stack(choosing.scan_steps(VALUES)[1:]), steps)
    assert np.array_equal(steps[-1], np.cumsum(VALUES))


def test_a_step_of_the_scan_says_which_lanes_are_summed_up():
    picture = choosing.scan(VALUES, 3, 20)
    assert f"= {VALUES[13:21].sum()}, the sum of lanes 13 to 20<" in picture
    assert "no lane is 4 before it" in choosing.scan(VALUES, 3, 2)


@pytest.mark.parametrize("count", range(2, 31))
def test_the_cut_chooses_what_the_reference_does(count):
    byte, taken = choosing.cut(SCORES, LABELS, count)
    active, _ = ref.select_map(SCORES, LABELS, count)
    others = np.setdiff1d(active, LABELS)
    at_cut = np.setdiff1d(np.flatnonzero(SCORES == byte - 1), LABELS)
    whole = np.setdiff1d(np.flatnonzero(SCORES >= byte), LABELS)
    assert np.array_equal(np.sort(np.concatenate([whole, at_cut[:taken]])), others)
    picture = choosing.compaction(SCORES, LABELS, count)
    assert f"written: {', '.join(map(str, active))}" in picture


def test_the_written_ids_stand_in_the_last_row():
    picture = choosing.compaction(SCORES, LABELS, 11)
    last_row = picture[picture.index(">written<") :]
    active, _ = ref.select_map(SCORES, LABELS, 11)
    assert re.findall(r">(\d+)</tspan>", last_row) == [str(c) for c in active]


def test_the_online_softmax_ends_where_two_passes_do():
    top, total = choosing.online(LOGITS)[-1]
    assert top == 9 and np.isclose(top + np.log(total), ref.log_sum_exp(LOGITS[None])[0])
    for seen, (top, total) in enumerate(choosing.online(LOGITS), 1):
        assert top == LOGITS[:seen].max() and np.isclose(total, np.exp(LOGITS[:seen] - top).sum())


def test_the_running_sum_is_scaled_when_a_larger_logit_comes():
    assert f"scaled by {np.exp(-3):.3f}" in choosing.running(LOGITS, 3)
    assert "the largest stays" in choosing.running(LOGITS, 4)


def test_bars_have_the_counts_and_their_ratio_to_the_floor():
    picture = choosing.bars({"version 1": 300, "version 2": 150}, "bytes", floor=100)
    assert "300, 3.0 times the floor" in picture and "150, 1.5 times the floor" in picture
    widths = [float(w) for w in re.findall(r'<rect [^>]* width="([\d.]+)"', picture)]
    assert np.isclose(widths[0], 2 * widths[1], rtol=1e-3)


def test_helpers_of_the_package_are_whole_functions_of_its_files():
    helpers = choosing.of_package("labelled", "select.cu", "void mark_labels(", "struct Bytes {")
    assert helpers.name == "labelled" and helpers.text.count("{") == helpers.text.count("}")
    assert "atomicOr(marked" in helpers.text and "static constexpr int last = 256;" in helpers.text


def test_widgets_follow_their_controls():
    for box, moves in (
        (choosing.scan_explorer(VALUES), (("step", 4), ("lane", 3))),
        (choosing.compaction_explorer(SCORES, LABELS), (("count", 20),)),
        (choosing.running_explorer(LOGITS), (("seen", 6),)),
    ):
        assert min(move(box, *moves)) < QUICK


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: choosing.scan(VALUES[:31], 1, 0), r"values has shape \[31\]"),
        (lambda: choosing.scan(VALUES, 6, 0), "step is 6"),
        (lambda: choosing.compaction(SCORES, LABELS, 1), "count is 1"),
        (lambda: choosing.compaction(np.zeros(33, int), [0], 3), "scores has 33 bytes"),
        (lambda: choosing.running(LOGITS, 8), "logits has 7 and seen is 8"),
        (lambda: choosing.bars({"version 1": 0}, "bytes"), "counts is"),
        (lambda: choosing.of_package("x", "select.cu", "no such words"), "stands in 0 places of select.cu"),
        (lambda: choosing.of_package("x", "select.cu", "return"), "places of select.cu"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()
