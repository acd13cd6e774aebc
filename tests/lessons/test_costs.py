"""The count of a head's cost, against shapes written out by hand and tensors that torch really allocates."""

import pytest
import torch

from annsoftmax_ref.lessons.costs import head_cost


def test_full_softmax_counts_its_three_products_and_its_tensors():
    cost = head_cost(num_classes=1000, embedding_size=64, batch_size=32)
    assert cost.operations == 6 * 32 * 1000 * 64
    weight = torch.empty(1000, 64)
    assert cost.weights == cost.momentum == cost.unit_rows == cost.gradient == weight.nbytes
    assert cost.logits == 2 * torch.empty(32, 1000).nbytes
    assert cost.memory == 4 * weight.nbytes + cost.logits


def test_sampling_shrinks_only_what_depends_on_the_active_classes():
    full, tenth = head_cost(1000, 64, 32), head_cost(1000, 64, 32, 0.1)
    assert (tenth.weights, tenth.momentum) == (full.weights, full.momentum)
    for part in ("operations", "unit_rows", "gradient", "logits"):
        assert 10 * getattr(tenth, part) == getattr(full, part)


@pytest.mark.parametrize("rate", [1e-9, 1.0])
def test_at_least_one_and_at_most_all_classes_are_active(rate):
    assert head_cost(7, 4, 2, rate).logits == 2 * 2 * 4 * (1 if rate < 1 else 7)
