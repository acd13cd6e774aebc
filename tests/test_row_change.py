"""row_change.py: rows that stay, go and come, against NumPy."""

import numpy as np
import pytest
import torch

from annsoftmax_ref.row_change import RowChange

KEPT = [1, 2, 4, 7, 8]
CHANGES = {"added": (None, 3), "removed": (KEPT, 0), "both": (KEPT, 3), "neither": (None, 0)}


@pytest.fixture(params=CHANGES)
def case(request):
    kept, added = CHANGES[request.param]
    change = RowChange(10, kept if kept is None else torch.tensor(kept), added)
    return change, np.arange(10) if kept is None else np.array(kept), added


def test_rows_stay_in_order_and_new_ones_follow(case):
    change, kept, added = case
    rows = np.random.default_rng(0).standard_normal((10, 3))
    new = -np.ones((added, 3))
    found = change.of(torch.from_numpy(rows), torch.from_numpy(new))
    np.testing.assert_array_equal(found, np.concatenate([rows[kept], new]))
    np.testing.assert_array_equal(change.of(torch.from_numpy(rows[:, 0]), 7), [*rows[kept, 0], *[7] * added])
    assert change.after == len(found)
    found.zero_()
    assert rows.any()  # a copy in memory of its own


def test_places_are_where_rows_are_found_again(case):
    change, kept, _ = case
    places = change.places.numpy()
    assert [int(row) for row in np.flatnonzero(places >= 0)] == list(kept)
    np.testing.assert_array_equal(places[kept], np.arange(len(kept)))
    np.testing.assert_array_equal(change.gone, np.setdiff1d(np.arange(10), kept))
    ids, values, nothing = change.of_ids(torch.tensor([8, 3, 1]), torch.tensor([80, 30, 10]), None)
    stays = [row for row in (8, 3, 1) if row in kept]
    assert ids.tolist() == [list(kept).index(row) for row in stays]
    assert values.tolist() == [10 * row for row in stays] and nothing is None


def test_a_cursor_goes_on_at_the_first_row_that_it_had_not_come_to(case):
    change, kept, _ = case
    for cursor in range(10):
        behind = [row for row in kept if row >= cursor]
        wanted = list(kept).index(behind[0]) if behind else len(kept) % change.after
        assert change.place_of(cursor) == wanted


@pytest.mark.parametrize("ascending", [True, False])
def test_sparse_rows_are_as_dense_ones(case, ascending):
    change, *_ = case
    ids = torch.tensor([[2, 3, 9] if ascending else [9, 2, 2]])
    rows = torch.sparse_coo_tensor(ids, torch.arange(6.0).view(3, 2), (10, 2), is_coalesced=ascending)
    found = change.of(rows)
    assert found.is_coalesced() == ascending and torch.equal(found.to_dense(), change.of(rows.to_dense()))
