"""Accuracy and retrieval on cases with a known answer."""

import pytest
import torch
from torch import nn

from annsoftmax_ref.datasets import ImageSet
from annsoftmax_ref.evaluation import accuracy, embed, evaluating, retrieval
from annsoftmax_ref.head import SoftmaxHead


class Direction(nn.Module):
    """An image with pixel (0, k) white has the embedding e_k."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return images[:, 0, 0, :8] * self.one


def drawings(columns, labels):
    images = torch.zeros(len(columns), 32, 32, dtype=torch.uint8)
    images[torch.arange(len(columns)), 0, torch.tensor(columns)] = 255
    return ImageSet(images, torch.tensor(labels), torch.zeros(len(columns), dtype=torch.int64))


def head_of_unit_vectors():
    head = SoftmaxHead(8, 8)
    with torch.no_grad():
        head.weight.copy_(torch.eye(8) + 0.1 * torch.roll(torch.eye(8), 1, dims=1))  # next: row k - 1 holds e_k too
    return head


def test_accuracy():
    data = drawings([0, 1, 2, 3], [0, 1, 2, 7])
    assert accuracy(Direction(), head_of_unit_vectors(), data) == 0.75
    data = drawings([1, 1, 1, 1], [1, 0, 5, 0])  # e_1: row 1, then row 0
    assert accuracy(Direction(), head_of_unit_vectors(), data) == 0.25
    assert accuracy(Direction(), head_of_unit_vectors(), data, k=2) == 0.75
    with pytest.raises(ValueError, match="k is 9"):
        accuracy(Direction(), head_of_unit_vectors(), data, k=9)


def test_accuracy_over_several_chunks(monkeypatch):
    monkeypatch.setattr("annsoftmax_ref.evaluation.CHUNK", 3)
    columns = [k % 8 for k in range(20)]
    assert accuracy(Direction(), head_of_unit_vectors(), drawings(columns, columns)) == 1
    assert retrieval(Direction(), drawings(columns, columns)) == 1


def test_retrieval():
    assert retrieval(Direction(), drawings([0, 0, 1, 1], [4, 4, 5, 5])) == 1
    # Label 5 twice, in other directions; label 6 alone: not asked for.
    assert retrieval(Direction(), drawings([0, 0, 1, 2, 1], [4, 4, 5, 5, 6])) == 0.5


def test_embed_gives_the_modes_back_and_no_gradient():
    model = nn.Sequential(Direction(), nn.Dropout(0.5))
    model[0].eval()
    out = embed(model, drawings([0, 3], [0, 0]).images)
    torch.testing.assert_close(out, torch.eye(8)[[0, 3]], rtol=0, atol=1e-2)
    assert not out.requires_grad and out.dtype == torch.float32 and model.training
    with pytest.raises(RuntimeError), evaluating(model):
        raise RuntimeError
    assert model.training
