"""lessons/split.py: the pictures of notebook 17, the bytes of a step, and the exercises."""

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from moved_controls import QUICK, move
from ranks import on_ranks

from annsoftmax_ref import SoftmaxHead
from annsoftmax_ref.lessons import check, split
from annsoftmax_ref.lessons.controls import explore_svg
from annsoftmax_ref.lessons.exercises import Exercise
from annsoftmax_ref.shards import Shards, range_of


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_bytes_of_a_step_are_those_that_a_head_counts(ranks, kind):
    def of_rank(rank, group):
        head = SoftmaxHead(40, 6, process_group=group)
        x = torch.ones(8 // ranks, 6, dtype=kind, requires_grad=True)
        head(x, torch.zeros(len(x), dtype=torch.int64)).backward()
        return dict(head.shards.received)

    assert on_ranks(ranks, of_rank)[0] == split.bytes_of_step(ranks, 8, 6, kind.itemsize)


def test_the_picture_of_a_step_has_every_part_for_every_process():
    for ranks in (2, 3):
        svg = split.draw_step(ranks)
        assert svg.count("gradient of its rows</text>") == ranks and svg.count("reduce-scatter: ") == 1
        assert f"process {ranks - 1}" in svg and f"process {ranks}<" not in svg


def test_the_bars_follow_the_controls_and_ours_do_not_grow_with_the_classes():
    box = explore_svg(
        split.draw_received,
        ranks=widgets.SelectionSlider(options=[2, 4, 256], value=4),
        classes=widgets.SelectionSlider(options=[10_000, 1_000_000], value=10_000),
    )
    assert max(move(box, ("ranks", 256), ("classes", 1_000_000), ("ranks", 2))) < QUICK
    few, many = split.draw_received(classes=10_000), split.draw_received(classes=1_000_000)
    for kind in ("features and labels", "softmax", "gradient"):
        numbers = [svg.partition('aria-label="')[2].partition(f"{kind} ")[2].split(", ")[0] for svg in (few, many)]
        assert numbers[0] == numbers[1] and numbers[0].endswith("kB")


def test_the_picture_of_the_mass_has_a_line_for_each_way():
    (axes,) = split.draw_mass({"one": [0.5, 0.5], "other": [0.5, 0.1]}, (1, 64)).axes
    assert [line.get_label() for line in axes.lines] == ["one", "other"]
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), [0.5, 0.1])


# --- exercises ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXERCISES := split.EXERCISES)
def test_each_exercise_takes_its_solution_and_rejects_what_is_a_little_off(name, capsys):
    exercise = EXERCISES[name]
    assert check(exercise, exercise.solution)

    def off(*arguments):
        right = exercise.solution(*arguments)
        return (*right[:-1], right[-1] + 1) if isinstance(right, tuple) else right * 1.01 + 1e-3

    assert not check(Exercise(off, exercise.cases), exercise.solution)


def test_what_goes_wrong_most_easily_is_rejected(capsys):
    def without_care(parts):
        largest = split.gloo_maximum(parts)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(np.exp(parts - largest).sum(axis=0)) + largest

    def hides_a_nan(parts):
        return np.logaddexp.reduce(np.nan_to_num(parts, nan=-np.inf), axis=0)

    def on_its_own(said, rank):
        return ("raise", rank) if said[rank, 0] else ("go on", -1)

    def of_the_remainder(label, num_classes, ranks):
        each = num_classes // ranks
        return min(label // each, ranks - 1), label % each

    wrong = {"log_sum": (without_care, hides_a_nan), "decide": (on_its_own,), "owner_and_row": (of_the_remainder,)}
    for name, functions in wrong.items():
        for function in functions:
            assert not check(EXERCISES[name], function), function.__name__


def test_solutions_are_what_the_package_does():
    values = torch.tensor([[0.5, -torch.inf], [2.0, -torch.inf]], dtype=torch.float64)
    ours = on_ranks(2, lambda rank, group: Shards(5, group).log_sum(values[rank]))
    np.testing.assert_allclose(ours[0], split.log_sum(values.numpy()))
    for num_classes, ranks in ((10, 4), (9, 4), (3, 4)):
        for label in range(num_classes):
            rank, row = split.owner_and_row(label, num_classes, ranks)
            assert range(*range_of(num_classes, rank, ranks))[row] == label
    sizes, grads = (5, 7, 0), np.array([2.0, 3.0, 0.0])  # of each process, the gradient of its samples' mean
    scaled = [split.loss_factor(sizes, rank, False) * grads[rank] for rank in range(3)]
    assert np.isclose(np.mean(scaled), (5 * 2.0 + 7 * 3.0) / 12)  # DDP's mean is that over all samples
