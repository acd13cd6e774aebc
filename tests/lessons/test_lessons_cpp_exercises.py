"""lessons/cpp_exercises.py: what the checker of exercises in C++ says of functions that are right, wrong, or crash."""

import numpy as np
import pytest

from annsoftmax_ref.lessons import cpp_exercises
from annsoftmax_ref.lessons.cpp_cells import CppFunction
from annsoftmax_ref.lessons.cpp_exercises import CppExercise, check_cpp

DOUBLE = CppExercise(
    ("x", "n", "out"),
    ("out",),
    lambda x, n: (2 * x,),
    [{"x": np.arange(n), "n": n} for n in (1, 0, 3, 600)],
    ["twice", "each"],
)


def function(body, parameters="const int64_t* x, int64_t n, int64_t* out"):
    text = f'#include <cstdint>\n\nextern "C" int64_t doubled({parameters}) {{\n    {body}\n    return 0;\n}}\n'
    return CppFunction("doubled", text)


def test_a_right_function_is_right(capsys):
    assert check_cpp(DOUBLE, function("for (int64_t i = 0; i < n; ++i) out[i] = 2 * x[i];")) is True
    assert capsys.readouterr().out == "right, in all 4 cases\n"


@pytest.mark.parametrize(
    "body, words",
    [
        (
            "",
            "Case 1 of 4, doubled(x [0], n=1, out)\n  1 of 1 are wrong; out[0]: expected 0, nothing was written there",
        ),
        ("for (int64_t i = 0; i < n; ++i) out[i] = x[i];", "Case 3 of 4, doubled(x [0, 1, 2], n=3, out)\n  2 of 3 are"),
        ("for (int64_t i = 0; i < n; ++i) out[i] = x[i];", "out[1]: expected 2, came 1"),
        ("for (int64_t i = 0; i <= n; ++i) out[i] = 2 * i;", "Case 1 of 4, doubled(x [0], n=1, out): SIGSEGV"),
        (
            "for (int64_t i = 0; i < n; ++i) out[i] = x[i] + x[i + (i > 500)];",
            "Case 4 of 4, doubled(x [600], n=600, out)",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_case_and_place(body, words, capsys):
    assert check_cpp(DOUBLE, function(body)) is False
    said = capsys.readouterr().out
    assert said.startswith("not yet. ") and words in said and said.endswith("(a hint: put hint=1 into check_cpp)\n")


def test_a_loop_without_an_end_is_ended(monkeypatch, capsys):
    monkeypatch.setattr(cpp_exercises, "SECONDS", 2)
    assert check_cpp(DOUBLE, function("for (volatile int64_t i = 0; i < 1; i = 0) {}")) is False
    assert "n=1, out): it did not end within 2 seconds" in capsys.readouterr().out


def test_other_parameters_are_named(capsys):
    assert check_cpp(DOUBLE, function("", "const int64_t* y, int64_t n, int64_t* out")) is False
    assert "doubled takes (y, n, out); it should take (x, n, out)" in capsys.readouterr().out


def test_hints_come_one_by_one(capsys):
    check_cpp(DOUBLE, function(""), hint=1)
    assert capsys.readouterr().out.startswith("hint 1: twice\nnot yet.")
    check_cpp(DOUBLE, function(""), hint=2)
    said = capsys.readouterr().out
    assert said.startswith("hint 1: twice\nhint 2: each\n") and "put hint" not in said
