"""growth.py: where two heads' times cross, and what is said of them."""

import math

import pytest

from annsoftmax_ref.bench import growth
from annsoftmax_ref.experiments.plots import growth_curves


def rows(full, ann, sizes=(5_000, 50_000, 500_000)):
    return [
        {"head": head, "classes": size, "ms_median": ms, "rate": 0.1, "batch": 256, "dim": 128}
        for head, times in (("full", full), ("ann", ann))
        for size, ms in zip(sizes, times, strict=True)
    ]


def test_times_cross_where_straight_lines_on_logarithmic_axes_do():
    # full = c, ann = 100 sqrt(c / 100): both 100 at c = 100.
    assert growth.crossover(rows((10, 1000), (31.6228, 316.228), (10, 1000))) == pytest.approx(100, rel=1e-4)


@pytest.mark.parametrize(
    "ann, crossed, words",
    [
        ((9, 50, 100), 0.0, "the cheaper at every size, so that they cross below 5,000."),
        ((11, 150, 1500), math.inf, "not the cheaper up to 500,000."),
        ((9, 150, 500), pytest.approx(50_000 * 10 ** (math.log(1.5) / math.log(3))), "from about 120,000 on"),
    ],
)
def test_below_within_and_beyond_the_measured_sizes(ann, crossed, words):
    measured = rows((10, 100, 1000), ann)
    assert growth.crossover(measured[::-1]) == crossed  # the order of the rows does not matter
    sentence = growth.finding(measured)
    assert words in sentence
    assert "full 10.0, 100.0, 1000.0 ms (the number of classes to the power 1.00), ann " in sentence


def test_the_picture_has_a_line_a_head_and_marks_the_crossing_between_the_sizes():
    measured = rows((10, 100, 1000), (20, 50, 100))
    for crossed, labels in ((20_000.0, ["full", "ann", "equal at about 20,000"]), (0.0, ["full", "ann"])):
        (axes,) = growth_curves(measured, crossed).axes
        assert [text.get_text() for text in axes.get_legend().get_texts()] == labels
        assert [text.get_text() for text in axes.get_xticklabels()] == ["5,000", "50,000", "500,000"]
        assert axes.get_xlabel() and axes.get_ylabel()
