"""lessons/: the trained head, the checker of the exercises, the controls."""

import importlib
import io
import pkgutil

import ipywidgets as widgets
import numpy as np
import pytest
from PIL import Image

from annsoftmax_ref import lessons
from annsoftmax_ref.lessons import check, explore, load_trained, pictures
from annsoftmax_ref.lessons.exercises import Exercise
from annsoftmax_ref.lessons.trained import FILE


def test_the_trained_head_knows_its_drawings():
    trained = load_trained()
    assert trained.prototypes.shape == (5204, 128) and trained.queries.shape == trained.batch.shape == (1024, 128)
    np.testing.assert_allclose(np.linalg.norm(trained.prototypes, axis=1), 1, rtol=1e-5)
    for rows, labels in ((trained.queries, trained.query_labels), (trained.batch, trained.batch_labels)):
        found = (rows @ trained.prototypes.T).argmax(axis=1)
        assert (found == labels).mean() > 0.85
    assert 0.9 < trained.accuracy < 1


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", FILE.read_bytes()[:5000]])
def test_a_trained_head_that_is_none_is_told(tmp_path, content):
    (tmp_path / "trained.npz").write_bytes(content)
    with pytest.raises(ValueError, match="which is broken or no trained head; `make lesson-data` makes it"):
        load_trained(tmp_path / "trained.npz")
    np.savez(tmp_path / "trained.npz", queries=np.ones(3))
    with pytest.raises(ValueError, match="no trained head"):
        load_trained(tmp_path / "trained.npz")
    with pytest.raises(OSError, match="none.npz"):
        load_trained(tmp_path / "none.npz")


def double(a):
    return 2 * a


DOUBLE = Exercise(double, [(1.5,), (np.arange(3.0),)], hint="twice as much")


@pytest.mark.parametrize(
    "function, right, words",
    [
        (double, True, "right, in all 2 cases"),
        (lambda a: a + a + 1e-12, True, "right"),
        (lambda a: None, False, "returned None"),
        (lambda a: a, False, "expected 3"),
        (lambda a: 3.0, False, "expected [0. 2. 4.]"),
        (lambda a: 3.0, False, "1 of 2 cases are right hint twice as much"),
        (lambda a: a / 0, False, "ZeroDivisionError"),
        (lambda a: "3", False, "came '3'"),
    ],
)
def test_the_checker_says_what_was_expected_and_what_came(function, right, words, capsys):
    assert check(DOUBLE, function) is right
    assert words in " ".join(capsys.readouterr().out.split())


def test_a_hint_is_for_whoever_has_tried(capsys):
    check(DOUBLE, lambda a: None)
    assert "hint" not in capsys.readouterr().out


def test_what_an_exercise_asks_to_do_without_is_found_in_functions_inside_too(capsys):
    ones = Exercise(lambda n: n.bit_count(), [(5,)], without=("bin", "bit_count"))
    assert not check(ones, lambda n: bin(n).count("1"))
    assert "asks to do without bin" in capsys.readouterr().out
    assert not check(ones, lambda n: sum(map(lambda one: one.bit_count(), [n])))
    assert check(ones, lambda n: sum(n >> j & 1 for j in range(8)))


def test_the_checker_compares_tuples_part_by_part(capsys):
    exercise = Exercise(lambda a: (a, [a + 1]), [(1,)])
    assert check(exercise, lambda a: (a, [a + 1]))
    assert not check(exercise, lambda a: (a, [a]))
    assert not check(exercise, lambda a: a)


def test_a_case_is_not_spoiled_by_a_function_that_changes_it(capsys):
    def spoil(a):
        a *= 2
        return a

    assert check(Exercise(double, [(np.ones(2),)] * 2), spoil)


MODULES = [importlib.import_module(f"{lessons.__name__}.{one.name}") for one in pkgutil.iter_modules(lessons.__path__)]
COURSE = {
    f"{module.__name__.rpartition('.')[2]}-{name}": exercise
    for module in MODULES
    for name, exercise in getattr(module, "EXERCISES", {}).items()
    if isinstance(exercise, Exercise)  # those whose answer is a kernel have tests of their own
}


def test_each_of_the_thirteen_notebooks_with_exercises_in_python_is_here():
    assert len({name.partition("-")[0] for name in COURSE}) == 13


@pytest.mark.parametrize("name", COURSE)
def test_each_exercise_rejects_the_stub_accepts_its_solution_and_has_a_hint(name, capsys):
    assert COURSE[name].hint
    assert check(COURSE[name], lambda *arguments: None) is False
    assert check(COURSE[name], COURSE[name].solution) is True


def test_controls_move_the_picture_and_say_what_cannot_be_drawn():
    def draw(height, kind):
        if height == 3:
            raise ValueError("height is 3; it should be less")
        return pictures.lines([1, 2], {kind: [1, height]}, "x", "y", log="")

    box = explore(draw, height=widgets.IntSlider(value=1, max=5), kind=widgets.Dropdown(options=["a", "b"]))
    seen = [box.picture.value]
    box.controls["height"].value = 2
    seen.append(box.picture.value)
    box.controls["kind"].value = "b"
    seen.append(box.picture.value)
    assert len(set(seen)) == 3 and seen[0][:4] == b"\x89PNG"
    width = Image.open(io.BytesIO(seen[0])).width  # twice what it takes on the page, where it is not stretched
    assert box.picture.layout.width == f"{width // 2}px" and box.picture.layout.max_width == "100%"
    box.controls["height"].value = 3
    assert "height is 3" in box.message.value and box.picture.value == seen[2]
    box.controls["height"].value = 2
    assert box.message.value == "" and box.controls["height"].description == "height"
