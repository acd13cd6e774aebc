"""lessons/training.py: the live run, the pictures of notebook 10, its exercises."""

import time

import numpy as np
import pytest
import torch

from annsoftmax_ref.datasets import load_glyphs
from annsoftmax_ref.lessons import check
from annsoftmax_ref.lessons.pictures import png
from annsoftmax_ref.lessons.training import (
    EXERCISES,
    LiveRun,
    draw_curves,
    draw_quality,
    draw_threshold,
    gap_table,
    grids,
)


@pytest.fixture(scope="module")
def data():
    return load_glyphs(progress=False).subset(100)


def make(data, **settings):
    return LiveRun(data, **{"rate": 0.3, "steps": 6, "every": 2, "batch_size": 16, **settings})


def test_a_live_run_grows_its_curves_stops_and_goes_on(data):
    run = make(data, steps=1000)
    blank = run.picture.value
    run.start_button.click()
    run.wait(points=2, seconds=200)
    run.stop_button.click()
    stopped = run.step
    assert not run.running and 4 <= stopped < 1000 and run.picture.value != blank
    assert run.message.value == f"stopped: step {stopped} of 1000"
    time.sleep(0.05)
    assert run.step == stopped
    run.start()
    run.wait(points=run.points + 1, seconds=200)
    run.stop()
    assert run.step > stopped and run.curves["ann"]["step"][:3] == [2, 4, 6]


def test_a_run_ends_and_does_not_depend_on_where_it_was_stopped(data):
    whole, halved = make(data, heads=("full", "ann")), make(data, heads=("full", "ann"))
    whole.start()
    whole.wait(seconds=200)
    halved.start()
    halved.wait(points=1, seconds=200)
    halved.stop()
    halved.start()
    halved.wait(seconds=200)
    assert whole.step == halved.step == 6 and whole.points == 3 and whole.curves == halved.curves
    assert whole.message.value.startswith("done")
    whole.start()  # begins again
    assert whole.running and whole.points < 3
    whole.wait(seconds=200)
    assert whole.curves == halved.curves


def test_an_error_in_the_thread_is_shown(data):
    run = make(data, rate=0.01)  # fewer active classes than a batch has
    run.start()
    run.wait(seconds=200)
    assert "ValueError" in run.message.value and "active classes" in run.message.value


def test_waiting_ends(data):
    run = make(data, steps=10_000)
    run.start()
    with pytest.raises(TimeoutError, match="of 10000"):
        run.wait(seconds=0.1)
    run.stop()


def test_the_threshold_keeps_to_its_rate():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    same = np.array([True, True, False, True, False, False])
    words = [figure.axes[1].get_title() for figure in (draw_threshold(scores, same, e) for e in (-3.0, -0.4, 0.0))]
    assert words == ["TAR 66.7% at FAR 0", "TAR 100.0% at FAR 0.33", "TAR 100.0% at FAR 1"]
    line = draw_threshold(scores, same, -3.0).axes[0].get_legend().get_texts()[-1].get_text()
    assert line == "threshold 0.80"  # the lowest score accepted
    with pytest.raises(ValueError, match="far_exponent is 1"):
        draw_threshold(scores, same, 1)


def test_a_redraw_takes_under_three_tenths_of_a_second():
    generator = np.random.default_rng(0)
    scores, same = generator.uniform(-1, 1, 100_000), np.arange(100_000) < 500

    def seconds(draw, *arguments):
        start = time.process_time()
        png(draw(*arguments))
        return time.process_time() - start

    ours, empty = [], []
    for exponent in (-3.0, -2.0, -1.0, -2.5, -1.5):
        ours.append(seconds(draw_threshold, scores, same, exponent))
        empty.append(seconds(draw_curves, {}))  # two empty panels: how fast this machine draws just now
    assert min(ours) < max(0.3, 4 * min(empty))


def test_curves_and_bars_show_what_they_are_given():
    curves = {"full": {"step": [1, 2], "loss": [3.0, 2.0], "accuracy": [0.1, 0.5]}}
    loss, accuracy = draw_curves(curves).axes
    assert list(loss.lines[0].get_ydata()) == [3.0, 2.0] and list(accuracy.lines[0].get_ydata()) == [10.0, 50.0]
    caught, missed = draw_quality({"ann": {"recall": 0.5, "captured_mass": 0.75, "gradient_error": 0.25}}).axes
    assert [bar.get_width() for bar in caught.patches] == [50, 75] and missed.patches[0].get_width() == 25


def test_exercises_tell_wrong_from_right(capsys):
    assert not check(EXERCISES["macro_accuracy"], lambda correct, labels: correct.mean())
    assert not check(EXERCISES["equal_error_rate"], lambda far, tar: far[np.abs(far - tar).argmin()])
    assert not check(EXERCISES["r_precision"], lambda relevant: relevant.mean())


def test_all_heads_see_the_same_batches(data):
    """So that curves differ by the head alone: two full heads would be equal."""
    one, two = make(data, heads=("full",), steps=2), make(data, heads=("full", "random"), steps=2)
    for run in (one, two):
        run.start()
        run.wait(seconds=200)
    assert one.curves["full"] == two.curves["full"]
    assert torch.equal(one.heads["full"].weight, two.heads["full"].weight)


def test_a_table_of_gaps_compares_runs_of_the_same_seed_and_stars_what_is_told_apart():
    def rows(*accuracies):
        return [{"seed": seed, "metrics": {"accuracy": one}} for seed, one in enumerate(accuracies)]

    cells = {
        ("ann", "x"): rows(0.51, 0.71, 0.91),
        ("full", "x"): rows(0.50, 0.70, 0.90),
    }  # far apart, each by one point
    cells |= {("random", "x"): rows(0.61, 0.61, 0.94), ("full", "y"): rows(0.5), ("none", "x"): []}
    head, _, line = gap_table(cells, ("full", "random", "none")).splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["ann less", "full", "random", "none"]
    assert [cell.strip() for cell in line.strip("|").split("|")] == ["x", "+1.0 ± 0.0 *", "-1.0 ± 10.1", ""]
    head = gap_table(cells, ("full", "random"), ("accuracy", "top5")).splitlines()[0]
    assert "accuracy, full" in head and "top-5, random" in head


def test_grids_are_what_is_a_table_of_a_report():
    assert grids("| a |\n|---|\n| 1 |\n\nann is ahead.\n\n| b |\n|---|") == "| a |\n|---|\n| 1 |\n\n| b |\n|---|"
