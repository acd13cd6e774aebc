"""Accuracy by class frequency against a Python loop and by hand."""

import pytest
import torch

from annsoftmax_ref.evaluation.buckets import NAMES, accuracy_by_frequency


def slow(correct, labels, counts, edges):
    """name -> (accuracy, classes, train_samples, tests)"""
    order = sorted(range(len(counts)), key=lambda c: (-counts[c], c))
    place, before = {}, 0
    for p, c in enumerate(order):
        if edges == "classes":
            place[c] = 3 * p // len(counts)
        elif edges == "samples":
            place[c] = min(2, 3 * before // max(1, sum(counts)))
        else:
            place[c] = 0 if counts[c] > edges[1] else 2 if counts[c] < edges[0] else 1
        before += counts[c]
    result = {}
    for number, name in enumerate(NAMES):
        mine = [c for c in order if place[c] == number]
        hits = [ok for ok, label in zip(correct, labels, strict=True) if label in mine]
        result[name] = (sum(hits) / len(hits) if hits else None, len(mine), sum(counts[c] for c in mine), len(hits))
    return result


@pytest.mark.parametrize("edges", ["classes", "samples", (3, 7), (5, 5), (100, 100), (0, 0)])
@pytest.mark.parametrize("num_classes", [1, 2, 3, 20])
def test_against_a_loop(generator, edges, num_classes):
    counts = torch.randint(12, (num_classes,), generator=generator)  # ties and zeros
    labels = torch.randint(num_classes, (70,), generator=generator)
    correct = torch.rand(70, generator=generator) < 0.6
    got = accuracy_by_frequency(correct, labels, counts, edges)
    assert got == slow(correct.tolist(), labels.tolist(), counts.tolist(), edges)


def test_by_hand():
    counts = torch.tensor([1, 100, 20, 1, 60, 19])  # order: 1, 4, 2, 5, 0, 3
    labels = torch.tensor([1, 1, 4, 2, 5, 0, 3])
    correct = torch.tensor([True, True, False, True, False, False, False])
    got = accuracy_by_frequency(correct, labels, counts)
    assert got == {"head": (2 / 3, 2, 160, 3), "middle": (0.5, 2, 39, 2), "tail": (0, 2, 2, 2)}
    # 201 samples, thirds at 67 and 134: class 1 begins at 0, class 4 at 100, class 2 at 160.
    got = accuracy_by_frequency(correct, labels, counts, "samples")
    assert got == {"head": (1, 1, 100, 2), "middle": (0, 1, 60, 1), "tail": (1 / 4, 4, 41, 4)}
    got = accuracy_by_frequency(correct, labels, counts, (20, 60))
    assert [got[name].classes for name in NAMES] == [1, 2, 3]


def test_nothing_to_measure():
    empty = accuracy_by_frequency(torch.zeros(0).bool(), torch.zeros(0).long(), torch.tensor([5]))
    assert empty == {"head": (None, 1, 5, 0), "middle": (None, 0, 0, 0), "tail": (None, 0, 0, 0)}
    unseen = accuracy_by_frequency(torch.tensor([True]), torch.tensor([0]), torch.tensor([0, 0]), "samples")
    assert sum(bucket.classes for bucket in unseen.values()) == 2


@pytest.mark.parametrize(
    "change, message",
    [
        ({"correct": torch.ones(2)}, "correct is of type torch.float32; it should be a tensor of torch.bool"),
        ({"correct": torch.ones(3).bool()}, "correct has 3 entries; it should have 2"),
        ({"labels": [0, 1]}, "labels is of type list"),
        ({"labels": torch.tensor([0, 2])}, "labels holds 2; labels should be from 0 to 1"),
        ({"labels": torch.tensor([-1, 0])}, "labels holds -1"),
        ({"train_counts": torch.tensor([[1, 2]])}, r"train_counts has shape \[1, 2\]"),
        ({"train_counts": torch.tensor([1, -2])}, "train_counts is empty or holds negative"),
        ({"train_counts": torch.zeros(0).long()}, "train_counts is empty"),
        ({"edges": "thirds"}, "edges is 'thirds'; it should be"),
        ({"edges": (9, 3)}, r"edges is \(9, 3\)"),
        ({"edges": (1, 2, 3)}, r"edges is \(1, 2, 3\)"),
        ({"edges": 5}, "edges is 5"),
        ({"edges": ("a", "b")}, "edges is .'a', 'b'."),
    ],
)
def test_bad_input(change, message):
    good = {"correct": torch.ones(2).bool(), "labels": torch.tensor([0, 1]), "train_counts": torch.tensor([3, 1])}
    with pytest.raises((ValueError, TypeError), match=message):
        accuracy_by_frequency(**{**good, **change})
