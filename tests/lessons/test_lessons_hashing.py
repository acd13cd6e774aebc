"""lessons/hashing.py: the pictures of notebook 03, what they are drawn from, and the exercises."""

import math

import ipywidgets as widgets
import numpy as np
import pytest
from moved_controls import move

from annsoftmax_ref.lessons import check, explore
from annsoftmax_ref.lessons.exercises import Exercise
from annsoftmax_ref.lessons.hashing import (
    EXERCISES,
    MOST_TABLES,
    _held,
    _lookups,
    _measured,
    angle_of_codes,
    draw_recall,
    draw_tables,
    first_tables,
    found_chance,
    tables_needed,
    turned,
)
from annsoftmax_ref.reference import rivals as ref


def unit_rows(n, d=16, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("angle", [0.0, 0.2, math.pi / 2, math.pi])
def test_turned_rows_stand_at_the_angle_and_keep_their_cosines(angle):
    x, w = unit_rows(5), unit_rows(30, seed=1)
    np.testing.assert_allclose((turned(w, angle) * w).sum(axis=1), np.cos(angle), atol=1e-12)
    np.testing.assert_allclose(turned(x, angle) @ turned(w, angle).T, x @ w.T, atol=1e-12)


def test_the_first_common_table_is_that_of_the_reference():
    x, w, planes = unit_rows(7), unit_rows(40, seed=1), np.random.default_rng(2).standard_normal((9, 3, 16))
    asked, held = ref.simhash_codes(x, planes), ref.simhash_codes(w, planes)
    bits = [np.einsum("lkd,nd->lkn", planes, rows) > 0 for rows in (x, w)]
    first = first_tables(*bits)
    same = asked[:, :, None] == held[:, None, :]
    np.testing.assert_array_equal(first, np.where(same.any(axis=0), same.argmax(axis=0), 9))
    assert (first == 9).any() and (first == 0).any()


def test_found_parts_are_counted_table_by_table():
    first = np.array([[0, 3], [MOST_TABLES, 1]])
    held = _held(first)
    np.testing.assert_allclose(held[:5], [25, 50, 50, 75, 75])
    assert len(held) == MOST_TABLES and held[-1] == 75


@pytest.mark.parametrize("bits, tables", [(2, 3), (7, 20), (10, 50)])
def test_measured_chances_follow_the_formula(bits, tables):
    degrees, first, nearest = _lookups(bits)
    middle, part = _measured(degrees, first < tables)
    far = (middle > 70) & (middle < 112)  # where there are thousands of pairs
    np.testing.assert_allclose(part[far], 100 * found_chance(np.radians(middle[far]), bits, tables), atol=3)
    assert far.sum() >= 8 and (np.take_along_axis(degrees, nearest, axis=1) < 80).all()


def test_pictures_follow_their_controls():
    box = explore(
        draw_tables,
        bits=widgets.IntSlider(value=7, min=1, max=20),
        tables=widgets.IntSlider(value=20, min=1, max=50),
    )
    move(box, ("bits", 14), ("bits", 1), ("tables", 1), ("tables", 50))
    box.controls["bits"].value = 15
    assert "bits is 15; it should lie in 1..14" in box.message.value


def test_the_static_picture_has_a_line_for_each_number_of_bits():
    names = [line.get_label() for line in draw_recall((4, 8)).axes[0].lines]
    assert names == ["4 bits", "8 bits", "at random"]
    with pytest.raises(ValueError, match="bits holds 6 numbers; it should hold at most 5"):
        draw_recall((1, 2, 3, 4, 5, 6))


@pytest.mark.parametrize("name", sorted(EXERCISES))
def test_each_exercise_rejects_what_is_a_little_off(name, capsys):
    exercise = EXERCISES[name]
    wrong = Exercise(lambda *arguments: exercise.solution(*arguments) + 1, exercise.cases)
    assert not check(wrong, exercise.solution)


def test_solutions_are_right_by_other_means():
    for angle, bits, chance in EXERCISES["tables_needed"].cases:
        enough = tables_needed(angle, bits, chance)
        assert found_chance(angle, bits, enough) >= chance > found_chance(angle, bits, enough - 1)
    x, w = unit_rows(1), unit_rows(1, seed=1)
    planes = np.random.default_rng(0).standard_normal((1, 60, 16))
    a, b = (int(ref.simhash_codes(rows, planes)[0, 0]) for rows in (x, w))
    assert abs(angle_of_codes(a, b, 60) - math.acos((x @ w.T).item())) < 4 * math.pi * 0.5 / math.sqrt(60)
