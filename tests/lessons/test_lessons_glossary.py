"""lessons/glossary.py and the notebook of terms: names that load, entries in order, nothing forgotten."""

import re
from pathlib import Path

import nbformat
import pytest

from annsoftmax_ref.lessons.glossary import NAMES, load

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "glossary.ipynb"
ENTRY = re.compile(r"^- \*\*(?P<term>.+?)\*\*: (?P<text>.+?)(?: `(?P<name>[\w.]+)`\.)? \[.+\]\(.+\)\.$")


def groups():
    """{heading: [(term, name or None)]} of the notebook."""
    found = {}
    for cell in nbformat.read(NOTEBOOK, 4).cells:
        lines = [line for line in cell.source.splitlines() if line.startswith("- **")]
        if cell.cell_type == "markdown" and lines:
            matches = [ENTRY.match(line) for line in lines]
            assert None not in matches, lines[matches.index(None)]
            found[cell.source.splitlines()[0]] = [(match["term"], match["name"]) for match in matches]
    return found


@pytest.mark.parametrize("term", NAMES)
def test_each_name_is_there_and_documented(term):
    assert (load(NAMES[term]).__doc__ or "").strip()


def test_a_name_that_is_not_there_is_found_out():
    for name in ("rows.no_such_thing", "NoSuchClass", "head.SoftmaxHead.nothing"):
        with pytest.raises(AttributeError):
            load(name)


def test_the_entries_and_the_names_agree():
    entries = [entry for group in groups().values() for entry in group]
    terms = [term for term, _ in entries]
    assert len(terms) == len(set(terms)) >= 40
    assert {term: name for term, name in entries if name} == NAMES


def test_each_group_is_in_order():
    for heading, entries in groups().items():
        terms = [term.lower() for term, _ in entries]
        assert terms == sorted(terms), heading
