"""evaluation/words.py on cases with a known answer."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from annsoftmax_ref import CosFace, CrossEntropy, SoftmaxHead
from annsoftmax_ref.datasets import WordPairs
from annsoftmax_ref.evaluation import nearest_words, perplexity, rank_correlation, word_vectors
from annsoftmax_ref.evaluation.words import agreement_with_people, ranks

NAMES = ["east", "north", "northeast", "west"]
VECTORS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 2.9], [-2.0, 0.0]])


def test_nearest_words():
    found = nearest_words(VECTORS, NAMES, "east", 2)
    assert [word for word, _ in found] == ["northeast", "north"]
    assert found[0][1] == pytest.approx(3 / math.hypot(3, 2.9)) and found[1][1] == 0
    assert len(nearest_words(VECTORS, NAMES, "west", 99)) == 3
    with pytest.raises(ValueError, match="word is 'south', which is not among the 4 words"):
        nearest_words(VECTORS, NAMES, "south")
    with pytest.raises(ValueError, match="k is 0"):
        nearest_words(VECTORS, NAMES, "east", 0)


def test_equal_values_share_the_mean_of_their_ranks():
    assert ranks(np.array([10.0, 20.0, 10.0, 30.0, 10.0])).tolist() == [2, 4, 2, 5, 2]


def test_spearmans_correlation_by_hand():
    """Ranks 1 2 3 4 5 and 2 1 4 3 5: 1 - 6 (1 + 1 + 1 + 1 + 0) / (5 * 24) = 0.8."""
    assert rank_correlation([1, 2, 3, 4, 5], [20, 10, 400, 300, 5000]) == pytest.approx(0.8)
    # Ranks 1.5 1.5 3 and 1 2 3, less their mean 2: (0.5 + 0 + 1) / sqrt(1.5 * 2).
    assert rank_correlation([7, 7, 9], [1, 2, 3]) == pytest.approx(1.5 / math.sqrt(3))
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 1, 1], [3, 2, 1]) is None and rank_correlation([], []) is None
    with pytest.raises(ValueError, match="second has shape"):
        rank_correlation([1, 2], [1, 2, 3])


def test_agreement_is_over_the_pairs_that_are_known():
    pairs = WordPairs(["east", "east", "east", "south"], ["west", "northeast", "north", "east"], np.array([1, 9, 5, 7]))
    assert agreement_with_people(VECTORS, NAMES, pairs) == {"rank_correlation": pytest.approx(1), "pairs_known": 0.75}
    nothing = WordPairs(["south"], ["east"], np.array([1.0]))
    assert agreement_with_people(VECTORS, NAMES, nothing) == {"rank_correlation": None, "pairs_known": 0}


class Words:
    """What ``word_vectors`` asks of a data set: windows of so many words."""

    num_classes = 4

    def __init__(self, window):
        self.train, self.window = self, window

    def batch(self, index):
        return torch.zeros(len(index), self.window, dtype=torch.int64), index


def test_a_word_is_its_embedding_where_it_is_the_whole_input_and_else_its_row():
    model = nn.Sequential(nn.Embedding.from_pretrained(VECTORS), nn.Flatten())
    head = SoftmaxHead(4, 2)
    for window, rows in ((1, VECTORS), (3, head.prototypes())):
        unit = nn.functional.normalize(rows)
        torch.testing.assert_close(word_vectors(model, head, Words(window)), unit - unit.mean(dim=0))


class Samples:
    """Inputs are embeddings; three samples, in two chunks."""

    inputs, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]), torch.tensor([0, 3, 1])

    def __len__(self):
        return 3

    def batch(self, index):
        return self.inputs[index], self.labels[index]


class Same(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, inputs):
        return inputs * self.one


def test_perplexity_is_of_the_softmax_over_all_classes(monkeypatch):
    monkeypatch.setattr("annsoftmax_ref.evaluation.words.CHUNK", 2)
    head = SoftmaxHead(4, 2, objective=CrossEntropy(3.0))
    with torch.no_grad():
        head.weight.copy_(VECTORS)
    cosine = nn.functional.normalize(Samples.inputs) @ nn.functional.normalize(VECTORS).T
    expected = nn.functional.cross_entropy(3 * cosine, Samples.labels).exp()
    assert perplexity(Same(), head, Samples()) == pytest.approx(expected.item(), rel=1e-6)
    assert perplexity(Same(), SoftmaxHead(4, 2, objective=CosFace()), Samples()) is None
