"""recall@k and mAP against Python loops and on cases with a known answer."""

import pytest
import torch

from annsoftmax_ref.evaluation.retrieval import mean_average_precision, recall_at_k


def rankings(embeddings, labels):
    """For each query with a mate: whether each other sample, nearest first, is of its class. Slow, and plain."""
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    cosine, labels = (unit @ unit.T).tolist(), labels.tolist()
    for i, label in enumerate(labels):
        others = sorted((j for j in range(len(labels)) if j != i), key=lambda j: (-cosine[i][j], j))
        if any(labels[j] == label for j in others):
            yield [labels[j] == label for j in others]


def slow_recall(embeddings, labels, k):
    found = [any(ranking[:k]) for ranking in rankings(embeddings, labels)]
    return sum(found) / len(found)


def slow_map(embeddings, labels):
    means = []
    for ranking in rankings(embeddings, labels):
        places = [place for place, hit in enumerate(ranking, 1) if hit]
        means.append(sum(found / place for found, place in enumerate(places, 1)) / len(places))
    return sum(means) / len(means)


@pytest.mark.parametrize("chunk", [None, 1, 7])
def test_against_loops(generator, chunk):
    labels = torch.randint(12, (40,), generator=generator)
    labels[0] = 99  # alone
    embeddings = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    got = recall_at_k(embeddings, labels, (1, 2, 5, 39, 1000), chunk)
    for k, value in got.items():
        assert value == slow_recall(embeddings, labels, k)
    assert got[39] == got[1000] == 1
    assert mean_average_precision(embeddings, labels, chunk) == pytest.approx(slow_map(embeddings, labels), abs=1e-12)


def test_ties_go_to_the_lower_index(generator):
    # Directions of exact cosines (0, 1, -1), so that most of the ranking is ties.
    embeddings = torch.cat([torch.eye(4), -torch.eye(4)])[torch.randint(8, (60,), generator=generator)].double()
    labels = torch.randint(6, (60,), generator=generator)
    for k, value in recall_at_k(embeddings, labels, (1, 3, 10), 9).items():
        assert value == slow_recall(embeddings, labels, k)
    assert mean_average_precision(embeddings, labels, 9) == pytest.approx(slow_map(embeddings, labels), abs=1e-12)


def test_by_hand():
    # Angles on the circle; class 0 at 0 and 30 degrees, class 1 at 10 and 100, class 2 alone at 200.
    angles = torch.deg2rad(torch.tensor([0.0, 30.0, 10.0, 100.0, 200.0]))
    embeddings, labels = torch.stack([angles.cos(), angles.sin()], dim=1), torch.tensor([0, 0, 1, 1, 2])
    # Ranks of the one mate: 0 -> 2 (after 10), 30 -> 2 (after 10), 10 -> 3 (after 0 and 30), 100 -> 2 (after 30).
    assert recall_at_k(embeddings, labels, (1, 2, 3)) == {1: 0, 2: 0.75, 3: 1}
    assert mean_average_precision(embeddings, labels) == pytest.approx((1 / 2 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_perfect_and_random(generator):
    labels = torch.arange(600) % 200
    perfect = torch.eye(200)[labels] * torch.rand(600, 1, generator=generator).add(0.1)  # lengths do not matter
    assert recall_at_k(perfect, labels, (1,)) == {1: 1}
    assert mean_average_precision(perfect, labels) == pytest.approx(1)
    chance = recall_at_k(torch.randn(600, 16, generator=generator), labels, (1,))[1]
    assert chance < 0.03  # 2 of 599 are right: 0.0033


def test_one_class_and_no_mates():
    rows = torch.eye(3)
    assert recall_at_k(rows, torch.zeros(3, dtype=torch.int64)) == {1: 1, 10: 1, 100: 1}
    assert mean_average_precision(rows, torch.zeros(3, dtype=torch.int64)) == 1
    assert recall_at_k(rows, torch.tensor([-1, 5, 7]), (1, 2)) == {1: None, 2: None}
    assert mean_average_precision(rows, torch.tensor([-1, 5, 7])) is None
    assert recall_at_k(rows[:0], torch.zeros(0, dtype=torch.int64), (1,)) == {1: None}


def test_half_precision_is_computed_in_float32(generator):
    embeddings, labels = torch.randn(50, 8, generator=generator).bfloat16(), torch.arange(50) % 9
    assert recall_at_k(embeddings, labels, (1, 4)) == recall_at_k(embeddings.float(), labels, (1, 4))


@pytest.mark.parametrize(
    "embeddings, labels, ks, message",
    [
        (torch.ones(3), torch.zeros(3).long(), (1,), r"embeddings has shape \[3\]; it should be \[n, d\]"),
        ([[1.0]], torch.zeros(1).long(), (1,), "embeddings is of type list"),
        (torch.ones(2, 2).long(), torch.zeros(2).long(), (1,), "embeddings is of type torch.int64"),
        (torch.full((2, 2), torch.nan), torch.zeros(2).long(), (1,), "embeddings holds NaN"),
        (torch.ones(2, 2), torch.zeros(3).long(), (1,), r"labels has shape \[3\]; it should be \[2\]"),
        (torch.ones(2, 2), torch.zeros(2), (1,), "labels is of type torch.float32"),
        (torch.ones(2, 2), torch.zeros(2).long(), (0,), "each k of ks is 0"),
        (torch.ones(2, 2), torch.zeros(2).long(), (1.5,), "each k of ks is 1.5"),
    ],
)
def test_bad_input(embeddings, labels, ks, message):
    with pytest.raises((ValueError, TypeError), match=message):
        recall_at_k(embeddings, labels, ks)
