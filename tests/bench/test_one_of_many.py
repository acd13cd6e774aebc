"""One process of many: what it is sent has its shapes, and leaves nothing behind."""

import sys

import pytest
import torch
import torch.distributed as dist

from annsoftmax_ref.bench.one_of_many import inject, one_of_many
from annsoftmax_ref.shards import Shards


def test_a_process_is_sent_its_own_values_in_the_shape_of_all_or_random_ones():
    hook = sys.excepthook
    with one_of_many(2, 4) as group:
        shards, mine = Shards(10, group), torch.tensor([[1.0, 2.0]])
        assert (shards.rank, shards.ranks, shards.first, shards.last) == (2, 4, 6, 9)
        assert shards.gather(mine, [1] * 4, "features").equal(mine.repeat(4, 1))
        inject(shards)
        others, labels = (shards.gather(part, [1] * 4, name) for part, name in ((mine, "features"), (mine, "labels")))
        assert len(others.unique()) == 8 and labels.shape == (4, 2)
        assert labels.long().equal(labels) and labels.min() >= 0 and labels.max() < 10
        assert shards.received == {"features": 2 * 3 * 8, "labels": 3 * 8}
    assert not dist.is_initialized() and sys.excepthook is hook


def test_it_does_not_go_into_a_group_that_is_there():
    with one_of_many(0, 2), pytest.raises(ValueError, match="initialized already"), one_of_many(1, 2):
        pass
    assert not dist.is_initialized()
