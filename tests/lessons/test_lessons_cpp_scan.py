"""lessons/cpp_scan.py: the pictures of notebook 11, and its exercises in C++, right and nearly right."""

import functools

import ipywidgets as widgets
import nbformat
import numpy as np
import pytest
from moved_controls import QUICK, move
from nbval_runs import ROOT, tool

from annsoftmax_ref.lessons import explore
from annsoftmax_ref.lessons.cpp_cells import CppFunction
from annsoftmax_ref.lessons.cpp_exercises import check_cpp
from annsoftmax_ref.lessons.cpp_scan import CPP_EXERCISES, Machine, draw_ladder, draw_roofline

MACHINE = Machine(bytes_ns=16, words_ns=8)


def test_floors_are_bytes_and_words_over_their_rates():
    assert MACHINE.floor(words=2) == (1.0, 0.25)
    assert MACHINE.floor(words=2, sharing=4) == (0.25, 0.25)
    assert MACHINE.floor(words=8, sharing=16) == (0.25, 1.0)


def test_the_roofline_follows_its_controls_and_is_quick():
    box = explore(
        functools.partial(draw_roofline, MACHINE),
        words=widgets.SelectionSlider(options=(1, 2, 4), value=2),
        sharing=widgets.IntSlider(value=1, min=1, max=64),
    )
    assert max(move(box, ("sharing", 16), ("words", 4), ("sharing", 2))) < QUICK
    assert "bound by reading" in draw_roofline(MACHINE, 2, 1).axes[0].get_title()
    assert "bound by counting" in draw_roofline(MACHINE, 2, 16).axes[0].get_title()
    with pytest.raises(ValueError, match="words is 3; it should be one of 1, 2, 4, 8, 16, 32"):
        draw_roofline(MACHINE, words=3)
    with pytest.raises(ValueError, match="sharing is 0; it should be at least 1"):
        draw_roofline(MACHINE, sharing=0)


def test_the_ladder_has_a_bar_for_each_version_and_a_line_for_each_floor():
    axes = draw_ladder({"plain torch": 70.0, "1": 140.0, "2": 3.0}, {"one": 0.5, "shared": 0.1}).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [70, 140, 3] and len(axes.lines) == 2
    assert axes.get_xlim()[0] < 0.1 and axes.get_xlim()[1] > 140


# --- exercises ---------------------------------------------------------------------------------------------

NOTEBOOK = ROOT / "notebooks" / "solutions" / "11_write_the_kernels_in_cpp.ipynb"
SOLUTIONS = {
    cell.source.split()[1].removesuffix("_cpp"): cell.source
    for cell in tool.code_cells(nbformat.read(NOTEBOOK, as_version=4))
    if cell.source.startswith("%%cpp ")
}
# Mistakes that come easily: exercise, what stands in the solution, what is put in its place, what the checker says.
MISTAKES = [
    ("hamming_codes", "popcountll", "popcount", "Case 1 of 7"),
    ("hamming_codes", "i < n", "i <= n", "SIGSEGV"),
    ("hamming_codes", "int64_t sum", "uint8_t sum", "expected 1012, came 244"),
    ("word_major", "i < n ? codes[i * words + w] : 0", "codes[i * words + w]", "SIGSEGV"),
    ("word_major", "w * capacity + i", "w * n + i", "Case 4 of 7"),
    ("bound_of", "below < k", "below <= k", "expected 3, came 5"),
    ("bound_of", " && distance < most", "", "expected 16, came 17"),
    ("bound_of", "counters(most + 1)", "counters(129)", "Case 10 of 10"),
    ("nearest_ids", "if (at < k) ", "", "SIGSEGV"),
    ("nearest_ids", "int64_t i = 0; i < n; ++i) {", "int64_t i = n - 1; i >= 0; --i) {", "ids[0]: expected 1, came 3"),
    ("nearest_ids", "ids[at] = -1", "{}", "nothing was written there"),
]


def solved(name, right="", wrong=""):
    magic, _, text = SOLUTIONS[name].partition("\n")
    assert right in text
    return CppFunction(magic.split()[1], text.replace(right, wrong, 1) if right else text)


def test_every_exercise_has_a_solution_and_hints():
    assert set(SOLUTIONS) == set(CPP_EXERCISES) and len(CPP_EXERCISES) >= 3
    assert all(len(exercise.hints) >= 2 for exercise in CPP_EXERCISES.values())


@pytest.mark.parametrize("name", CPP_EXERCISES)
def test_solutions_are_right(name, capsys):
    assert check_cpp(CPP_EXERCISES[name], solved(name))


@pytest.mark.parametrize("name, right, wrong, words", MISTAKES)
def test_mistakes_are_named(name, right, wrong, words, capsys):
    assert not check_cpp(CPP_EXERCISES[name], solved(name, right, wrong))
    assert words in capsys.readouterr().out


def test_specifications_agree_with_each_other():
    rng = np.random.default_rng(0)
    distances = rng.integers(0, 20, size=50)
    for k in (1, 7, 50, 60):
        case = {"distances": distances, "n": 50, "k": k, "most": 20}
        (ids,) = CPP_EXERCISES["nearest_ids"].specification(**case)
        (bound,) = CPP_EXERCISES["bound_of"].specification(**case)
        assert bound[0] == (distances[ids[-1]] if k <= 50 else 20) and (ids[:50] >= 0).sum() == min(k, 50)
