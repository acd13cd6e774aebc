"""Drawings as text: escaped, with a label; shown with words for those who do not see them."""

import xml.etree.ElementTree as tree

import pytest

from annsoftmax_ref.lessons import svg


def test_a_drawing_is_well_formed_and_what_is_in_it_is_escaped():
    body = [svg.text(0, 9, 'a < b & "c"'), svg.box(0, 0, 5, 5), svg.grid(0, 0, 5, 5, 3), svg.line(0, 0, 1, 1)]
    body += [svg.letters([1, 2], 3, "<&"), svg.bold(0, 0, 1)]
    root = tree.fromstring(svg.drawing(20, body, 'says "<this>"'))
    assert root.get("aria-label") == 'says "<this>"' and root.get("role") == "img" and len(root) == 6
    assert root[0].text == 'a < b & "c"' and root[4].text == "<&" and root[4].get("x") == "1 2"


def test_show_displays_the_picture_and_its_words(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append((data, options)))
    svg.show("<svg/>", alt="A picture.")
    assert shown == [({"text/html": "<svg/>", "text/plain": "A picture."}, {"raw": True})]
    with pytest.raises(ValueError, match="alt is empty"):
        svg.show("<svg/>", alt=" ")
