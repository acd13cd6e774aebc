"""lessons/course.py: the strip at the head of a notebook and the links at its end."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbval_runs import tool

import annsoftmax_ref
from annsoftmax_ref.lessons import course


@pytest.fixture
def folder(tmp_path):
    for name, title in (("00_begin", "Begin"), ("01_go_on", "Go on"), ("04_search", "Search"), ("05_end", "End")):
        cells = [new_markdown_cell(f"# {title}\n\nWhat it is about.\n\n> A quotation."), new_code_cell("1")]
        nbformat.write(new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    return tmp_path


def test_the_stages_are_those_of_the_package_in_its_order():
    assert list(course.STAGES) == re.findall(r"^\d\. (\w+(?: \w+)?): ", annsoftmax_ref.__doc__, re.MULTILINE)


def test_every_stage_is_built_up_in_a_notebook_that_is_about_it():
    for stage, number in course.STAGES.items():
        assert stage in course.PLACES[number][1]
    assert all(set(stages) <= set(course.STAGES) for _, stages in course.PLACES.values())


def test_the_strip_marks_the_stages_here_and_links_the_others_where_a_notebook_is_there(folder):
    strip = course.head("04", folder)
    assert strip.startswith("> **You are here:** notebook 04, ")
    assert "groups → **search** → active set → rows → objective → [gradients](01_go_on.ipynb)" in strip
    assert strip.endswith("row update → **index**")


def test_the_links_lead_to_neighbours_that_are_there_and_along_the_short_way(folder):
    assert course.foot("00", folder) == "**Next:** [Go on](01_go_on.ipynb)"
    assert course.foot("01", folder) == (
        "**Back:** [Begin](00_begin.ipynb) · **Next on the short way:** [Search](04_search.ipynb)"
    )
    assert course.foot("05", folder) == "**Back:** [Search](04_search.ipynb)"


def test_putting_twice_is_putting_once_and_keeps_what_stands_there(folder):
    path = folder / "04_search.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert not course.is_put(notebook, path)
    course.put(notebook, path)
    once = [cell.source for cell in notebook.cells]
    assert course.is_put(notebook, path) and len(once) == 3
    assert once[0] == f"# Search\n\n{course.head('04', folder)}\n\nWhat it is about.\n\n> A quotation."
    assert once[-1] == course.foot("04", folder) and notebook.cells[-1].id == course.LAST_CELL
    notebook.cells[0].source = notebook.cells[0].source.replace("**search**", "search")
    assert not course.is_put(notebook, path)


def test_a_notebook_without_a_place_is_left_alone(folder):
    notebook = new_notebook(cells=[new_markdown_cell("# Terms")])
    course.put(notebook, folder / "glossary.ipynb")
    assert [cell.source for cell in notebook.cells] == ["# Terms"]
    with pytest.raises(ValueError, match="number is '99'; it should be one of 00, 01"):
        course.head("99", folder)


def test_the_check_says_where_they_are_out_of_date(tmp_path, monkeypatch, folder):
    monkeypatch.setattr(tool, "FOLDER", folder)
    path = folder / "01_go_on.ipynb"
    assert any("out of date: run tools/notebooks.py navigate 01_go_on.ipynb" in fault for fault in tool.check(path))
    assert tool.main(["navigate", str(path)]) == 1  # its code cell was never run
    assert not any("out of date" in fault for fault in tool.check(path))
