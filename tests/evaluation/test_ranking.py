"""evaluation/ranking.py: metrics against numbers made by hand, ranks against a sort of everything."""

import math

import pytest
import torch
from ranks import on_ranks
from torch import nn

from annsoftmax_ref import every_row, make_head
from annsoftmax_ref.evaluation import mrr_of_ranks, ndcg_of_ranks, own_ranks, recall_of_ranks
from annsoftmax_ref.evaluation.ranking import ranks_among_all

RANKS = torch.tensor([1, 3, 10, 11])


def test_metrics_by_hand():
    assert [recall_of_ranks(RANKS, k) for k in (1, 2, 3, 10, 11)] == [0.25, 0.25, 0.5, 0.75, 1.0]
    assert ndcg_of_ranks(RANKS, 10) == pytest.approx((1 + 1 / 2 + 1 / math.log2(11)) / 4)
    assert ndcg_of_ranks(RANKS, 1) == 0.25
    assert mrr_of_ranks(RANKS) == pytest.approx((1 + 1 / 3 + 1 / 10 + 1 / 11) / 4)


@pytest.mark.parametrize("wrong", [torch.tensor([0, 1]), torch.empty(0, dtype=torch.int64), RANKS.view(2, 2)])
def test_ranks_that_are_none(wrong):
    for metric in (lambda ranks: recall_of_ranks(ranks, 1), lambda ranks: ndcg_of_ranks(ranks, 1), mrr_of_ranks):
        with pytest.raises(ValueError, match="ranks has shape"):
            metric(wrong)
        with pytest.raises(TypeError, match="ranks is of type torch.float32"):
            metric(RANKS.float())
    with pytest.raises(ValueError, match="k is 0"):
        recall_of_ranks(RANKS, 0)


class Rows:
    """Samples with features that bfloat16 holds (a backbone may run in it), and classes."""

    def __init__(self, classes, count):
        generator = torch.Generator().manual_seed(5)
        self.features = torch.randn(count, 8, generator=generator).bfloat16().float()
        self.labels = torch.randint(classes, (count,), generator=generator)

    def __len__(self):
        return len(self.labels)

    def batch(self, index):
        return self.features[index], self.labels[index]


def identity():
    linear = nn.Linear(8, 8, bias=False)
    nn.init.eye_(linear.weight)
    return linear


def sorted_ranks(weight, features, labels, shifts=0.0):
    """By a stable sort of all scores in float64, largest first."""
    unit = nn.functional.normalize
    scores = unit(features.double()) @ unit(weight.double()).T + shifts
    order = scores.argsort(dim=1, descending=True, stable=True)
    return 1 + (order == labels.unsqueeze(1)).long().argmax(dim=1)


@pytest.mark.parametrize("part", [1 << 24, 16 * 8])
@pytest.mark.parametrize("bias", [False, True])
def test_ranks_are_those_of_a_sort_of_all_classes(monkeypatch, part, bias):
    monkeypatch.setattr(every_row, "PART", part)
    head, data = make_head("full", 50, 8, "cross_entropy", bias=bias, seed=1), Rows(50, 60)
    shifts = 0.0
    if bias:
        head.bias.data.normal_(generator=torch.Generator().manual_seed(2))
        shifts = head.bias.detach().double() / head.objective.scale
    ranks, labels = own_ranks(identity(), head, data)
    assert torch.equal(labels, data.labels)
    assert torch.equal(ranks, sorted_ranks(head.weight.detach(), data.features, data.labels, shifts))
    assert ranks.max() > 16


def test_of_equal_rows_the_lower_class_comes_first():
    head = make_head("full", 40, 8)
    head.weight.data[:] = head.weight.data[0].clone()
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    assert ranks_among_all(head, x, torch.arange(40)).tolist() == list(range(1, 41))


@pytest.mark.parametrize("classes", [7, 2])  # of 2, one of three processes has none
def test_split_classes_give_the_same(classes):
    data = Rows(classes, 31)
    whole = make_head("full", classes, 8, seed=3)
    expected = own_ranks(identity(), whole, data)

    def rank(rank, group):
        split = make_head("full", classes, 8, process_group=group)
        split.weight.data.copy_(whole.weight.detach()[split.shards.first : split.shards.last])
        return own_ranks(identity(), split, data)

    for ranks, labels in on_ranks(3, rank):
        assert torch.equal(ranks, expected[0]) and torch.equal(labels, expected[1])
