"""lessons/diagrams.py: well-formed SVG on white ground with legible text, which says what it is given."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from annsoftmax_ref import reference as ref
from annsoftmax_ref.lessons import course, diagrams, toy

SVG = "{http://www.w3.org/2000/svg}"
GROUPS = [[np.arange(4)], ref.similar_groups(toy.X, 2)]
SPLITS = [(groups, toy.active_sets(groups)) for groups in GROUPS]


def lists(probed=(0, 1)):
    codes, query = toy.bits(toy.W), ("é", toy.bits(toy.X)[0])
    return diagrams.inverted_file(toy.NAMES, codes, toy.lists()[0], probed, query)


def places(splits=SPLITS):
    return diagrams.shared_places(toy.NAMES, splits, toy.LABELS, toy.candidates(3))


ALL = {"step": diagrams.step, "inverted_file": lists, "shared_places": places, "missed_steps": diagrams.missed_steps}


def texts(diagram):
    return [text.text for text in ElementTree.fromstring(diagram.svg).iter(f"{SVG}text")]


def boxes(diagram, fill):
    return [box for box in ElementTree.fromstring(diagram.svg).iter(f"{SVG}rect") if box.get("fill") == fill]


@pytest.mark.parametrize("name", ALL)
def test_a_diagram_is_opaque_white_has_its_alt_text_and_is_always_the_same(name):
    diagram = ALL[name]()
    root = ElementTree.fromstring(diagram.svg)
    ground = root.find(f"{SVG}rect")
    assert ground.get("fill") == "#ffffff" and ground.get("width") == root.get("width")
    assert root.find(f"{SVG}title").text == diagram.alt and diagram.alt.endswith(".")
    assert all(int(text.get("font-size")) >= 12 for text in root.iter(f"{SVG}text"))
    assert diagram == ALL[name]() and len(diagram.svg) < 20_000


@pytest.mark.parametrize("name", ALL)
def test_nothing_stands_outside_of_the_ground(name):
    root = ElementTree.fromstring(ALL[name]().svg)
    width, height = float(root.get("width")), float(root.get("height"))
    for text in root.iter(f"{SVG}text"):
        reach = 0.62 * int(text.get("font-size")) * len(text.text)
        left = {"middle": reach / 2, "start": 0, "end": reach}[text.get("text-anchor")]
        x, y = float(text.get("x")), float(text.get("y"))
        assert 0 <= x - left and x - left + reach <= width and 10 <= y <= height - 4, text.text
    for box in root.iter(f"{SVG}rect"):
        assert float(box.get("x", 0)) + float(box.get("width")) <= width
        assert float(box.get("y", 0)) + float(box.get("height")) <= height


def test_a_notebook_shows_the_picture_with_its_alt_text():
    data, metadata = InteractiveShell.instance().display_formatter.format(diagrams.step())
    assert data["image/svg+xml"].startswith("<svg") and data["text/plain"] == diagrams.step().alt
    assert metadata["image/svg+xml"]["alt"] == diagrams.step().alt


def test_a_step_names_the_stages_in_order_and_marks_those_asked_for():
    assert list(diagrams.STAGES) == list(course.STAGES)
    named = [words for words in texts(diagrams.step()) if re.match(r"\d ", words)]
    assert named == [f"{number} {stage}" for number, stage in enumerate(course.STAGES, start=1)]
    assert len(boxes(diagrams.step(("search", "index")), diagrams.ORANGE_PALE)) == 2
    assert "Marked: search, index." in diagrams.step(("search", "index")).alt


def test_an_inverted_file_reads_the_lists_that_are_probed():
    assert [words for words in texts(lists()) if "read" in words] == ["probe 1: read", "probe 2: read", "not read"]
    assert [words for words in texts(lists([2])) if "read" in words] == ["not read", "not read", "probe 1: read"]
    assert [words for words in texts(lists()) if words in toy.NAMES] == list(toy.NAMES)
    assert "list 0: e é è ê, then list 1: o ó ò ô" in lists().alt


def test_places_say_for_whom_they_are():
    assert "with 1 group 4, with 2 groups 10." in places().alt
    assert len(boxes(places(), diagrams.GREEN_PALE)) == 8 and len(boxes(places(), diagrams.SKY_PALE)) == 4
    assert "for é ê" in texts(places()) and "samples é ê" in texts(places())


@pytest.mark.parametrize("steps", [1, 5, 8])
def test_missed_steps_have_a_matrix_each_and_one_product(steps):
    words = texts(diagrams.missed_steps(steps))
    assert words.count("g = 0") == steps and words.count("touched") == 2
    assert sum(bool(re.fullmatch("M[₁-₈]", one)) for one in words) == steps


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: diagrams.step(("find",)), "here names 'find'; it should name stages: groups, search"),
        (lambda: lists([3]), r"probed is \[3\]; it should name lists from 0 to 2"),
        (lambda: diagrams.missed_steps(9), "steps is 9; it should be from 1 to 8"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()
