"""following.py: codes follow rows that moved, and lists of other rows are known as such."""

import pytest
import torch

from annsoftmax_ref import IVFBinaryIndex
from annsoftmax_ref.following import follow
from annsoftmax_ref.row_log import RowLog
from annsoftmax_ref.row_parameter import RowParameter, row_state, unwatched


@pytest.fixture
def parts(generator):
    weight = RowParameter(torch.randn(500, 16, generator=generator))
    index, log = IVFBinaryIndex(500, 16, 4), RowLog()
    row_state(weight).attach(log)
    with torch.no_grad(), unwatched():  # as the package's code reads the weight
        index.train_lists(weight, torch.Generator().manual_seed(0))
        yield index, log, weight


def test_codes_are_those_of_the_rows_as_they_are(parts):
    index, log, weight = parts
    with torch.no_grad():
        weight[3] = -weight[3]
    assert index.stale_bits(weight) > 0
    follow(index, log, weight)
    assert index.stale_bits(weight) == 0 and int(index.clock) == 1 and not index.outdated
    follow(index, log, weight)
    assert int(index.clock) == 1  # there was nothing to do


def test_codes_that_came_with_the_ids_are_written_as_they_are(parts):
    index, log, weight = parts
    codes = torch.tensor([[5]])
    row_state(weight).moved(weight, torch.tensor([7]), codes)
    follow(index, log, weight)
    assert index.codes[7].item() == 5


def test_rows_that_are_others_make_the_lists_outdated_until_they_are_made_anew_or_loaded(parts, generator):
    index, log, weight = parts
    saved = index.state_dict()
    for mend in (lambda: index.train_lists(weight, generator), lambda: index.load_state_dict(saved)):
        with torch.no_grad():
            weight.copy_(torch.randn(500, 16, generator=generator))
        follow(index, log, weight)
        assert index.outdated
        mend()
        assert not index.outdated
