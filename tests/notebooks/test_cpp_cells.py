"""Cells of C++ in the notebooks: the package's text or a rung of the lesson's own, and built for every processor."""

import re

import nbformat
import pytest
from nbval_runs import ROOT, tool

from annsoftmax_ref.lessons.cpp_cells import CppFunction
from kernels_inline.build import SOURCES, VARIANTS

# A definition at the left edge, to its end: the next line that begins with "}", or its own ";".
DEFINITION = re.compile(r"^(?![#\s/}])(?:[^\n{]*;[^\n]*|.*?\n\}[^\n]*)$", re.MULTILINE | re.DOTALL)
PACKAGE = "\n".join(path.read_text() for path in sorted((*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h"))))


def cells_of_cpp():
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        for cell in tool.code_cells(nbformat.read(path, as_version=4)):
            if cell.source.startswith("%%cpp "):
                yield pytest.param(cell, id=f"{path.parent.name}/{path.stem[:2]} {cell.source.split()[1]}")


CELLS = list(cells_of_cpp())


def foreign(text):
    """Definitions that are not in the package, the cell's launcher and names of namespaces aside."""
    return [
        one for one in DEFINITION.findall(text) if one not in PACKAGE and not one.startswith(('extern "C"', "using"))
    ]


def test_there_are_cells_of_both_kinds():
    own = ["lesson-rung" in param.values[0].metadata.get("tags", []) for param in CELLS]
    assert own.count(True) >= 6 and own.count(False) >= 4


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_is_the_package_s_text_or_tagged_as_the_lesson_s_own(cell):
    text = cell.source.partition("\n")[2]
    stub = "FILL IN" in text
    assert stub or "lesson-rung" in cell.metadata.get("tags", []) or foreign(text) == []


def test_a_definition_that_differs_by_a_letter_is_found():
    (cell,) = (param.values[0] for param in CELLS if param.id.endswith("11 near_3"))
    text = cell.source.partition("\n")[2]
    names = ("GROUP", "popcount", "distances", "near_masks")
    found = DEFINITION.findall(text)
    assert len(found) == 5 and all(name in one for name, one in zip(names, found, strict=False))
    for right, wrong in (("GROUP = 8", "GROUP = 9"), ("x >> 2", "x >> 3"), ("<< p;", "<< 1;"), ("<= limit", "< limit")):
        assert text.count(right) == 1 and len(foreign(text.replace(right, wrong))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_builds_for_processors_without_avx(cell):
    magic, _, text = cell.source.partition("\n")
    assert CppFunction(magic.split()[1], text, VARIANTS["baseline"]).parameters
