"""evaluation/parts.py: where classes are split, each process embeds a part of the samples, and all report the same."""

import pytest
import torch
from ranks import on_ranks
from torch import nn

from annsoftmax_ref import evaluation
from annsoftmax_ref.factory import make_head

CLASSES, DIM = 7, 8


class Points:
    """Features in no order, some of which are of several classes."""

    def __init__(self, count):
        generator = torch.Generator().manual_seed(1)
        self.features = torch.randn(count, DIM, generator=generator)
        self.labels = torch.randint(CLASSES, (count,), generator=generator)

    def __len__(self):
        return len(self.labels)

    def batch(self, index):
        assert len(index)
        return self.features[index], self.labels[index]

    def batch_all(self, index):
        features, labels = self.batch(index)
        return features, torch.arange(len(index) + 1) * 2, torch.stack([labels, (labels + 1) % CLASSES], 1).flatten()


def model():
    linear = nn.Linear(DIM, DIM, bias=False)
    nn.init.eye_(linear.weight)
    return linear


def measured(head, points):
    found, labels = evaluation.hits(model(), head, points, k=3)
    return found, labels, evaluation.precision_report(model(), head, points), evaluation.accuracy(model(), head, points)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("count", [1, 3, 1030])
def test_reports_are_those_of_one_process(ranks, count):
    points = Points(count)

    def rank(rank, group):
        split = make_head("full", CLASSES, DIM, process_group=group)
        rows = whole.weight.detach()[split.shards.first : split.shards.last]
        split.weight.data.copy_(rows)
        return measured(split, points)

    whole = make_head("full", CLASSES, DIM, seed=3)
    expected = measured(whole, points)
    for result in on_ranks(ranks, rank):
        assert torch.equal(result[0], expected[0]) and torch.equal(result[1], expected[1])
        assert result[2:] == expected[2:]
