"""lessons/bits.py: what the pictures of notebook 04 are drawn from, the widget, the exercises."""

import functools

import ipywidgets as widgets
import numpy as np
import pytest
from moved_controls import QUICK, move

from annsoftmax_ref import reference as ref
from annsoftmax_ref.datasets import load_glyphs
from annsoftmax_ref.lessons import explore, load_trained, pictures
from annsoftmax_ref.lessons.bits import WANTED, SearchByCode, code_stripes, draw_recall


@pytest.fixture(scope="module")
def search():
    trained = load_trained()
    return SearchByCode(trained.queries[:64], trained.prototypes)


@pytest.fixture(scope="module")
def draw(search):
    data = load_glyphs(progress=False)
    return functools.partial(draw_recall, search, data, data.test.images[load_trained().query_index[:64]])


def test_ranks_are_places_in_the_order_of_the_reference_search(search):
    codes = [ref.encode(rows) for rows in (search.queries[:3], search.prototypes)]
    for i, distances in enumerate(ref.hamming(*codes)):
        order = np.lexsort((np.arange(len(distances)), distances))
        np.testing.assert_array_equal(order[search.ranks(128)[i]], search.nearest[i])
    np.testing.assert_array_equal(search.nearest[:3], ref.brute_force(search.queries[:3], search.prototypes, WANTED)[0])


def test_recall_rises_with_bits_and_with_candidates_to_all(search):
    assert search.recall(32, 200) < search.recall(64, 200) < search.recall(128, 200) < search.recall(128, 800)
    assert search.recall(32, len(search.prototypes)) == 1


def test_the_picture_follows_each_control_and_is_quick(draw):
    box = explore(
        draw,
        bits=widgets.IntSlider(value=128, min=8, max=128),
        candidates=widgets.IntSlider(value=200, min=50, max=1600),
        query=widgets.IntSlider(value=0, max=63),
    )
    move(box, ("bits", 32), ("candidates", 800), ("query", 9))
    seconds = move(box, *(("candidates", value) for value in (100, 300, 500)))
    assert min(seconds) < QUICK


@pytest.mark.parametrize("values, words", [({"bits": 0}, "bits is 0"), ({"candidates": 10}, "candidates is 10")])
def test_values_that_cannot_be_drawn_are_named(draw, values, words):
    with pytest.raises(ValueError, match=words):
        draw(**values)


def test_stripes_show_the_code_and_want_a_row_each():
    images = np.zeros((2, 32, 32), dtype=np.uint8)
    codes = np.arange(2 * 8).reshape(2, 8) % 3 > 0
    one, other = (pictures.png(code_stripes(images, c, ["a", "b"])) for c in (codes, ~codes))
    assert one != other
    with pytest.raises(ValueError, match="should agree"):
        code_stripes(images, codes[:1], ["a", "b"])
