"""lessons/lists.py: what the pictures of notebook 05 are drawn from, the widgets, the exercises."""

import functools

import ipywidgets as widgets
import numpy as np
import pytest
from moved_controls import move

from annsoftmax_ref import reference as ref
from annsoftmax_ref.datasets import load_glyphs
from annsoftmax_ref.lessons import check, explore, lists, load_trained
from annsoftmax_ref.lessons.lists import SHOWN, SearchByList, draw_parts, draw_scan


@pytest.fixture(scope="module")
def searches():
    trained = load_trained()
    return {nlist: SearchByList(trained.queries[:32], trained.prototypes, nlist, 3) for nlist in (16, 64)}


@pytest.fixture(scope="module")
def scan(searches):
    data, trained = load_glyphs(progress=False), load_trained()
    drawings = data.test.images[trained.query_index[:32]]
    return functools.partial(draw_scan, searches[64], data, drawings, trained.query_labels[:32])


def test_recall_is_that_of_the_reference_search_when_all_that_is_scanned_is_re_ranked(searches):
    search = searches[64]
    codes = ref.encode(search.prototypes)
    arguments = (search.queries, search.prototypes, search.centroids, search.assignment, codes)
    found, _ = ref.search(*arguments, k=len(search.prototypes), nprobe=4)
    shares = [np.isin(row, got[:50]).mean() for got, row in zip(found, search.wanted, strict=True)]
    assert np.isclose(search.recall(4), np.mean(shares))
    assert np.isclose(search.scanned(4), (found >= 0).mean())


def test_more_lists_scanned_find_more_until_all_is_found(searches):
    for search in searches.values():
        found = [search.recall(p) for p in (1, 4, search.nlist)]
        assert found == sorted(found) and found[0] < 0.6 and found[-1] == search.scanned(search.nlist) == 1
        assert search.sizes.sum() == len(search.prototypes)


def test_the_pictures_follow_each_control_and_are_quick(searches, scan):
    parts = explore(
        functools.partial(draw_parts, searches),
        nlist=widgets.Dropdown(options=[16, 64], value=64),
        nprobe=widgets.IntSlider(value=16, min=1, max=64),
    )
    one = explore(scan, probes=widgets.IntSlider(value=3, min=1, max=64), query=widgets.IntSlider(max=31))
    seconds = move(parts, ("nprobe", 4), ("nlist", 16)) + move(one, ("probes", 9), ("query", 5))
    assert max(seconds) < 0.6  # 0.2 s where nothing else runs
    parts.controls["nprobe"].value = 40
    assert "nprobe is 40" in parts.message.value


def test_reversed_ties_and_rounded_answers_are_rejected(capsys):
    nearest, best = (lists.EXERCISES[name] for name in ("nearest_lists", "best_nlist"))
    assert not check(nearest, lambda q, c, n: np.argsort(c @ q, kind="stable")[::-1][:n])
    assert not check(nearest, lambda q, c, n: np.argsort(-(c @ q))[:n]), "numpy's default sort keeps no order of ties"
    assert not check(best, lambda n, p: round((n * p) ** 0.5))


@pytest.mark.parametrize("probes", [0, 65])
def test_a_scan_that_cannot_be_drawn_is_named(scan, probes):
    with pytest.raises(ValueError, match=f"probes is {probes}"):
        scan(probes=probes)


def test_a_list_of_fewer_members_than_drawings_is_drawn_too():
    data, trained = load_glyphs(progress=False), load_trained()
    search = SearchByList(trained.queries[:1], trained.prototypes[:200], 64, 1)
    assert search.sizes.min() < SHOWN
    draw_scan(search, data, data.test.images[trained.query_index[:1]], trained.query_labels[:1], probes=64)


def test_an_nlist_without_lists_is_named(searches):
    with pytest.raises(ValueError, match="nlist is 7; it should be one of 16, 64"):
        draw_parts(searches, nlist=7)
