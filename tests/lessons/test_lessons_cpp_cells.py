"""lessons/cpp_cells.py: cells of C++ are compiled, called, and their errors come with the line of the cell."""

import numpy as np
import pytest
import torch
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from annsoftmax_ref.lessons.cpp_cells import cpp, explained
from kernels_inline import compiler
from kernels_inline.compiler import BuildError

TWICE = """#include "scan_codes.h"

extern "C" int64_t twice(const int64_t* x, int64_t n, double scale, int64_t* out) {
    for (int64_t i = 0; i < n; ++i) out[i] = scale * x[i] + scan::popcount(0);
    return 7;
}
"""


@pytest.fixture(scope="module")
def twice():
    return cpp("twice", TWICE)


def test_a_cell_is_called_with_arrays_and_tensors_and_returns_its_number(twice):
    x, out = np.arange(5), torch.zeros(5, dtype=torch.int64)
    assert twice(x, 5, 2.0, out) == 7 and out.tolist() == [0, 2, 4, 6, 8]
    assert twice(x.astype(np.uint64), np.int64(2), 3.0, out) == 7 and out.tolist() == [0, 3, 4, 6, 8]
    assert twice.parameters == [("int64_t", "x", True), ("int64_t", "n", False), ("double", "scale", False)] + [
        ("int64_t", "out", True)
    ]


@pytest.mark.parametrize(
    "changed, error, sentence",
    [
        ({0: np.arange(5, dtype=np.int32)}, TypeError, "x holds int32; it should hold int64_t"),
        ({0: np.arange(10)[::2]}, ValueError, "x has gaps or another order in memory; it should be contiguous"),
        ({0: [1, 2]}, TypeError, "x is of type list; it should be an array or a tensor"),
        ({1: "5"}, TypeError, "n is of type str; it should be a number"),
        ({3: torch.zeros(5)}, TypeError, "out holds float32; it should hold int64_t"),
    ],
)
def test_what_it_cannot_take_is_named(twice, changed, error, sentence):
    arguments = [np.arange(5), 5, 2.0, np.zeros(5, dtype=np.int64)]
    for place, value in changed.items():
        arguments[place] = value
    with pytest.raises(error, match=sentence):
        twice(*arguments)
    with pytest.raises(TypeError, match="twice got 1 arguments; it takes 4"):
        twice(5)


def test_other_instruction_sets_give_the_same(twice):
    out = np.zeros(5, dtype=np.int64)
    twice.built_for("baseline")(np.arange(5), 5, 2.0, out)
    assert out.tolist() == [0, 2, 4, 6, 8]
    with pytest.raises(ValueError, match="variant is 'sse'; it should be one of native"):
        twice.built_for("sse")


def test_an_error_comes_with_its_line_though_a_header_stands_before_it():
    wrong = TWICE.replace("scale * x[i]", "scale * y[i]")
    with pytest.raises(BuildError) as caught:
        cpp("twice", wrong)
    said = explained(caught.value, wrong, first=2)
    assert said.startswith("line 5 of the cell: ") and said.endswith(f"5 | {wrong.splitlines()[3]}")
    assert explained(BuildError("no compiler"), wrong) == "no compiler"


def test_a_name_that_is_not_there_and_a_line_that_is_none_are_named():
    with pytest.raises(ValueError, match=r'there is no extern "C" int64_t thrice\(...\) in the text'):
        cpp("thrice", TWICE)
    with pytest.raises(ValueError, match="variant is 'sse'"):
        cpp("twice sse", TWICE)
    with pytest.raises(ValueError, match="it should be the function's name"):
        cpp("", TWICE)


def test_the_magic_defines_the_function_and_says_errors_without_a_traceback(monkeypatch):
    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "annsoftmax_ref.lessons.cpp_cells")
    shell.run_cell_magic("cpp", "twice", TWICE)
    assert shell.user_ns["twice"].name == "twice"
    with pytest.raises(UsageError, match="line 5 of the cell"):
        shell.run_cell_magic("cpp", "twice", TWICE.replace("x[i]", "y[i]"))
    with pytest.raises(UsageError, match="there is no extern"):
        shell.run_cell_magic("cpp", "thrice", TWICE)
    monkeypatch.setattr(compiler, "cxx", lambda: (_ for _ in ()).throw(BuildError("no compiler is on PATH")))
    with pytest.raises(UsageError, match="no compiler is on PATH"):
        shell.run_cell_magic("cpp", "twice", TWICE + "// a text that was not built yet\n")
