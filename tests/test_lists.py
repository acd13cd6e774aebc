"""lists.py: moves in shapes that do not depend on the data, as a GPU makes them, against the others."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from annsoftmax_ref.lists import InvertedLists, counts_of


def made(n, nlist, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-(2**62), 2**62, (n, 2), generator=generator)
    return InvertedLists(torch.randint(nlist, (n,), generator=generator), codes, nlist), generator


def check(lists):
    """Every class stands in its list, once, with its code, and the counts are right."""
    n = len(lists.assignment)
    everybody = torch.arange(n)
    assert torch.equal(lists.slots[lists.assignment, lists.place], everybody)
    assert torch.equal(lists.slot_codes[lists.assignment, :, lists.place], lists.codes)
    assert torch.equal(lists.slots[lists.slots >= 0].sort().values, everybody)
    assert torch.equal(lists.sizes, torch.bincount(lists.assignment, minlength=lists.nlist))
    beyond = torch.arange(lists.slots.shape[1]) >= lists.ends.unsqueeze(1)
    assert (lists.slots[beyond] == -1).all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_moves_are_those_that_look_at_the_data(data):
    n, nlist = data.draw(st.integers(1, 80), "classes"), data.draw(st.integers(1, 7), "lists")
    ours, generator = made(n, nlist, data.draw(st.integers(0, 999), "seed"))
    theirs, _ = made(n, nlist, 0)
    theirs.assignment.copy_(ours.assignment)
    theirs.codes.copy_(ours.codes)
    theirs._lay_out()
    for _ in range(3):
        ids = torch.randperm(n, generator=generator)[: data.draw(st.integers(1, min(n, 6)), "moved")]
        wanted = torch.randint(nlist, ids.shape, generator=generator)
        assert int(ours._move_where_there_is_room(ids, wanted)) == theirs.move(ids, wanted)
        check(ours)
        assert torch.equal(ours.assignment, theirs.assignment)


def test_rows_that_find_no_room_stay_until_there_is_some():
    lists, _ = made(200, 4)
    room = lists.slots.shape[1] - int(lists.ends[0])
    others = (lists.assignment != 0).nonzero().squeeze(1)
    before = lists.assignment.clone()
    moved = int(lists._move_where_there_is_room(others, torch.zeros_like(others)))
    assert moved == room < len(others)
    check(lists)
    stayed = lists.assignment != 0
    assert torch.equal(lists.assignment[stayed], before[stayed])
    lists.make_room()
    check(lists)
    left = stayed.nonzero().squeeze(1)
    assert int(lists._move_where_there_is_room(left, torch.zeros_like(left))) > 0


def test_room_is_made_only_where_a_list_is_nearly_full():
    lists, _ = made(200, 4)
    slots = lists.slots
    lists.make_room()
    assert lists.slots is slots


@pytest.mark.parametrize("values, length", [([], 3), ([2, 0, 2], 3), ([0], 1)])
def test_counts_are_those_of_bincount(values, length):
    values = torch.tensor(values, dtype=torch.int64)
    assert torch.equal(counts_of(values, length), torch.bincount(values, minlength=length))
