"""index_changes.py: an index whose rows came and went is the one that has them and the same centroids."""

import pytest
import torch
from test_lists import check

from annsoftmax_ref import IVFBinaryIndex, NearestClasses
from annsoftmax_ref.row_change import RowChange

N, D, NLIST = 300, 24, 8
KINDS = {
    "plain": {},
    "residual codes": {"centre": True},
    "turned": {"rotate": True, "asymmetric": True},
}


def rows_of(n, seed):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=KINDS)
def trained(request):
    rows = rows_of(N, 0)
    index = IVFBinaryIndex(N, D, NLIST, **KINDS[request.param])
    index.train_lists(rows, torch.Generator().manual_seed(1))
    return index, rows


@pytest.mark.parametrize("has_slots", [True, False])
def test_it_finds_what_an_index_finds_that_was_given_those_rows(trained, has_slots):
    index, rows = trained
    index.has_slots = has_slots
    assert index.lists.sizes.sum() == N
    for seed, change in enumerate([RowChange(N, added=5), RowChange(N + 5, torch.arange(2, N + 4, 3)), None, None]):
        if change is None:  # so many that the table is laid out again, then fewer
            change = RowChange(len(rows), added=4 * N) if seed == 2 else RowChange(len(rows), torch.arange(40))
        new = rows_of(change.added, seed)
        before = {name: buffer.clone() for name, buffer in index.state_dict().items()}
        commit = index.changing(change, new)
        assert all(torch.equal(buffer, before[name]) for name, buffer in index.state_dict().items())
        commit()
        rows = change.of(rows, new)
        other = IVFBinaryIndex(len(rows), D, NLIST, index.rotate, index.centre, index.asymmetric)
        for name in ("centroids", "rotation", "trained"):
            if getattr(index, name) is not None:
                getattr(other, name).copy_(getattr(index, name))
        other.assignment.copy_(index.assignment)
        other.update_rows(rows, torch.arange(len(rows)))
        if change.added:
            unit = torch.nn.functional.normalize(new, dim=1)
            assert torch.equal(index.assignment[-change.added :], index.nearest_list(unit))
        assert torch.equal(index.codes, other.codes) and index.stale_bits(rows) == 0
        assert torch.equal(index.lists.sizes, torch.bincount(index.assignment, minlength=NLIST))
        if has_slots:
            check(index.lists)
            found = (one.search(rows_of(9, 9), rows, 12, 3) for one in (index, other))
            for ours, theirs in zip(*found, strict=True):
                assert torch.equal(ours, theirs)


def test_an_index_without_lists_yet_gets_rows_for_when_they_are_made():
    index = IVFBinaryIndex(N, D, NLIST)
    index.changing(RowChange(N, added=7), rows_of(7, 1))()
    rows = rows_of(N + 7, 2)
    index.train_lists(rows, torch.Generator().manual_seed(1))
    assert index.stale_bits(rows) == 0 and index.lists.sizes.sum() == N + 7


def test_what_was_asked_for_stays_and_the_rest_follows_the_number_of_classes():
    asked, free = NearestClasses(0.1, nprobe=3, refresh_steps=60), NearestClasses(0.1)
    for selector in (asked, free):
        selector.bind(1000, D)
    nlist, free.nprobe = free.nlist, 5  # set by hand
    for selector in (asked, free):
        selector.changing(RowChange(1000, added=100_000), torch.ones(100_000, D))()
    assert (asked.nprobe, asked.refresh_steps) == (3, 60)
    assert (free.nlist, free.nprobe, free.refresh_steps) == (nlist, 5, 101)
