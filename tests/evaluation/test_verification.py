"""Pairs, TAR at FAR, ROC, ten folds and identification against Python loops and on cases with a known answer."""

import itertools
import math

import numpy as np
import pytest
import torch

from annsoftmax_ref.evaluation.verification import (
    draw_pairs,
    identification,
    make_pairs,
    pair_scores,
    roc,
    tar_at_far,
    ten_fold_accuracy,
)


def scored_pairs(generator, count=300, ties=False):
    same = torch.arange(count) % 2 == 0
    scores = torch.randn(count, generator=generator, dtype=torch.float64) + same
    return (scores * 3).round() if ties else scores, same


def test_pairs_are_right_distinct_and_fixed_by_the_seed(generator):
    labels = torch.randint(10, (60,), generator=generator) * 7 - 3
    pairs = make_pairs(labels, 200, seed=1)
    assert pairs.same.tolist() == [True, False] * 100
    assert (pairs.first < pairs.second).all()
    assert ((labels[pairs.first] == labels[pairs.second]) == pairs.same).all()
    assert len(set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))) == 200
    again, other = make_pairs(labels, 200, seed=1), make_pairs(labels, 200, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(pairs, again, strict=True))
    assert not torch.equal(pairs.first, other.first)


def test_all_pairs_of_a_kind_can_be_drawn():
    labels = torch.tensor([2, 0, 2, 1, 0, 2])
    every = {kind: set() for kind in (True, False)}
    for i, j in itertools.combinations(range(6), 2):
        every[bool(labels[i] == labels[j])].add((i, j))
    assert len(every[True]) == 4 and len(every[False]) == 11
    pairs = make_pairs(labels, 8, seed=0)
    drawn = set(zip(pairs.first[pairs.same].tolist(), pairs.second[pairs.same].tolist(), strict=True))
    assert drawn == every[True]
    drawn = set()
    for seed in range(60):
        pairs = make_pairs(labels, 8, seed)
        drawn |= set(zip(pairs.first[~pairs.same].tolist(), pairs.second[~pairs.same].tolist(), strict=True))
    assert drawn == every[False]


def test_more_of_a_kind_than_there_are_gives_all():
    labels = torch.tensor([4, 4, 4, 9, 9])
    pairs = draw_pairs(labels, 3, 100, seed=2)
    assert pairs.same.tolist() == [True] * 3 + [False] * 6
    assert len(set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))) == 9
    assert (pairs.first < pairs.second).all() and torch.equal(labels[pairs.first] == labels[pairs.second], pairs.same)
    assert draw_pairs(torch.arange(4), 5, 2, seed=0).same.tolist() == [False, False]
    assert draw_pairs(torch.zeros(1, dtype=torch.int64), 5, 5, seed=0).same.tolist() == []


def test_pairs_are_drawn_evenly():
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2])  # 7 same, 14 different
    seen = np.zeros((7, 7))
    for seed in range(2000):
        pairs = make_pairs(labels, 2, seed)
        np.add.at(seen, (pairs.first.numpy(), pairs.second.numpy()), 1)
    for i, j in itertools.combinations(range(7), 2):
        p = 1 / 7 if labels[i] == labels[j] else 1 / 14
        assert abs(seen[i, j] - 2000 * p) < 4.5 * math.sqrt(2000 * p * (1 - p))


@pytest.mark.parametrize(
    "labels, count, seed, message",
    [
        (torch.zeros(5).long(), 4, 0, "needs 2 different pairs, but labels gives 0"),
        (torch.arange(5), 4, 0, "needs 2 same pairs, but labels gives 0"),
        (torch.tensor([0, 0, 1, 1]), 6, 0, "needs 3 same pairs, but labels gives 2; it should be at most 4"),
        (torch.zeros(0).long(), 2, 0, "labels gives 0"),
        (torch.tensor([0, 0, 1]), 3, 0, "count is 3; it should be even"),
        (torch.tensor([0, 0, 1]), 0, 0, "count is 0"),
        (torch.tensor([0, 0, 1]), 2, -1, "seed is -1; it should be at least 0"),
        (torch.tensor([0, 0, 1]), 2, 0.5, "seed is 0.5; it should be a whole number"),
        (torch.tensor([0.0, 0, 1]), 2, 0, "labels is of type torch.float32"),
    ],
)
def test_pairs_bad_input(labels, count, seed, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make_pairs(labels, count, seed)


def test_pair_scores(generator, monkeypatch):
    rows = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    first, second = torch.arange(8), torch.arange(1, 9)
    monkeypatch.setattr("annsoftmax_ref.evaluation.retrieval.CELLS", 12)  # three pairs at a time
    slow = [float(rows[i] @ rows[i + 1] / (rows[i].norm() * rows[i + 1].norm())) for i in range(8)]
    torch.testing.assert_close(pair_scores(rows, first, second), torch.tensor(slow, dtype=torch.float64))


def slow_points(scores, same):
    """(FAR, TAR) at every distinct score and above all of them."""
    scores, same = scores.tolist(), same.tolist()
    for threshold in [math.inf, *sorted(set(scores), reverse=True)]:
        accepted = [score >= threshold for score in scores]
        hits = sum(a and s for a, s in zip(accepted, same, strict=True))
        wrong = sum(a and not s for a, s in zip(accepted, same, strict=True))
        yield wrong / (len(same) - sum(same)), hits / sum(same)


@pytest.mark.parametrize("ties", [False, True])
def test_roc_and_tar_against_loops(generator, ties):
    scores, same = scored_pairs(generator, ties=ties)
    points = list(slow_points(scores, same))
    far, tar = roc(scores, same)
    assert list(zip(far, tar, strict=True)) == points
    fars = (1.0, 0.5, 0.1, 0.04, 0.01)  # 150 different pairs
    got = tar_at_far(scores, same, fars)
    assert got == {limit: max(t for f, t in points if f <= limit) for limit in fars}
    shuffled = torch.randperm(len(same), generator=generator)
    assert tar_at_far(scores[shuffled].numpy(), same[shuffled].numpy(), fars) == got


def test_tar_at_far_is_exact_and_none_where_it_cannot_be_measured():
    # 1000 different pairs at 1..1000; same pairs at 999.5 (above all but one) and 0.
    scores = torch.cat([torch.arange(1.0, 1001.0), torch.tensor([999.5, 999.5, 999.5, 0.0])])
    same = torch.arange(1004) >= 1000
    assert tar_at_far(scores, same) == {1e-2: 0.75, 1e-3: 0.75, 1e-4: None}
    assert tar_at_far(scores[1:], same[1:]) == {1e-2: 0.75, 1e-3: None, 1e-4: None}  # 999 different pairs
    # A tie at the threshold is refused whole: accepting the 1000s takes two different pairs with one same pair.
    scores[998:1001] = 1000
    assert tar_at_far(scores, same, (1e-3, 2e-3)) == {1e-3: 0, 2e-3: 0.75}


def test_perfect_reversed_and_equal_scores():
    same = torch.arange(200) % 2 == 0
    assert tar_at_far(same.double(), same, (1e-2,)) == {1e-2: 1}
    assert tar_at_far(-same.double(), same, (1e-2,)) == {1e-2: 0}
    assert tar_at_far(torch.zeros(200), same, (1e-2, 1.0)) == {1e-2: 0, 1.0: 1}
    far, tar = roc(torch.zeros(200), same)
    assert far.tolist() == tar.tolist() == [0, 1]
    far, tar = roc(same.double(), same)
    assert far.tolist() == [0, 0, 1] and tar.tolist() == [0, 1, 1]
    perfect = ten_fold_accuracy(same.double(), same)
    assert perfect.mean == 1 and perfect.standard_error == 0 and perfect.thresholds == [0.5] * 10
    assert ten_fold_accuracy(torch.zeros(200), same).mean == 0.5


def test_random_scores_are_at_chance(generator):
    scores, same = torch.rand(20000, generator=generator), torch.arange(20000) % 2 == 0
    got = tar_at_far(scores, same, (0.1, 0.01))
    assert abs(got[0.1] - 0.1) < 0.015 and abs(got[0.01] - 0.01) < 0.005
    assert abs(ten_fold_accuracy(scores, same).mean - 0.5) < 0.02


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("folds", [2, 7, 10])
def test_ten_folds_against_loops(generator, ties, folds):
    scores, same = scored_pairs(generator, count=101, ties=ties)
    got = ten_fold_accuracy(scores, same, folds)
    scores, same, start, accuracies = scores.tolist(), same.tolist(), 0, []
    for fold in range(folds):
        stop = start + 101 // folds + (fold < 101 % folds)
        train = [k for k in range(101) if not start <= k < stop]
        levels = sorted({scores[k] for k in train})
        cuts = [-math.inf, *((a + b) / 2 for a, b in itertools.pairwise(levels)), math.inf]
        right = [sum((scores[k] >= cut) == same[k] for k in train) for cut in cuts]
        threshold = max(cut for cut, r in zip(cuts, right, strict=True) if r == max(right))
        assert got.thresholds[fold] == threshold
        accuracies.append(sum((scores[k] >= threshold) == same[k] for k in range(start, stop)) / (stop - start))
        start = stop
    assert got.accuracies == pytest.approx(accuracies)
    mean = sum(accuracies) / folds
    assert got.mean == pytest.approx(mean)
    variance = sum((a - mean) ** 2 for a in accuracies) / (folds - 1)
    assert got.standard_error == pytest.approx(math.sqrt(variance / folds))


def test_a_cut_between_neighbouring_floats():
    low = 1.0
    high = math.nextafter(low, 2)
    assert ten_fold_accuracy([low, high] * 10, np.array([False, True] * 10)).mean == 1


@pytest.mark.parametrize("metric", [roc, tar_at_far, ten_fold_accuracy])
def test_metrics_bad_input(metric):
    same = torch.tensor([True, False])
    for scores, pairs, message in [
        (torch.zeros(3), same, r"scores has shape \[3\] and same \[2\]"),
        (torch.zeros(2), torch.tensor([1, 0]), "same is of type int64; it should be bool"),
        (torch.tensor([0.0, torch.nan]), same, "scores holds NaN"),
        (torch.zeros(2), ~(same | True), "same holds"),
        (torch.zeros(0), same[:0], "same holds no pair"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            metric(scores, pairs)


def test_too_few_pairs():
    same = torch.tensor([True, False, True])
    with pytest.raises(ValueError, match="folds is 10; it should be 2 to 3"):
        ten_fold_accuracy(torch.zeros(3), same)
    with pytest.raises(ValueError, match="fars holds 0"):
        tar_at_far(torch.zeros(3), same, (0,))
    only_same = torch.ones(3, dtype=torch.bool)
    assert tar_at_far(torch.zeros(3), only_same) == {1e-2: None, 1e-3: None, 1e-4: None}
    with pytest.raises(ValueError, match="same holds only same pairs"):
        roc(torch.zeros(3), only_same)


def slow_identification(embeddings, labels, distractors):
    unit, others = (rows / rows.norm(dim=1, keepdim=True) for rows in (embeddings, distractors))
    wins = [
        all(unit[i] @ unit[j] > unit[i] @ other for other in others)
        for i, j in itertools.permutations(range(len(labels)), 2)
        if labels[i] == labels[j]
    ]
    return sum(wins) / len(wins), len(wins)


def test_identification_against_loops(generator, monkeypatch):
    centres = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(8, (30,), generator=generator) * 5
    embeddings = centres[labels // 5] + 0.7 * torch.randn(30, 6, generator=generator, dtype=torch.float64)
    others = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    monkeypatch.setattr("annsoftmax_ref.evaluation.retrieval.CELLS", 100)  # five probes at a time
    got = identification(embeddings, labels, others)
    assert (got.rank1, got.trials) == slow_identification(embeddings, labels, others) and got.distractors == 20
    assert 0 < got.rank1 < 1


def test_identification_sets_whole_classes_aside(generator):
    # One direction a class: perfect whatever is drawn, unless a probe's own class were among the distractors.
    labels = torch.arange(60) % 12
    for seed in range(5):
        got = identification(torch.eye(12)[labels], labels, 17, seed)  # 4 classes of 5: 8 classes are probes
        assert got == (1.0, 8 * 5 * 4, 17)
    noise = torch.randn(60, 4, generator=generator)
    assert identification(noise, labels, 17, 3) == identification(noise, labels, 17, 3)
    assert len({identification(noise, labels, 17, seed).rank1 for seed in range(6)}) > 1
    assert identification(noise, labels, 10, 0).trials == 10 * 5 * 4  # exactly two classes


def test_identification_ties_are_lost():
    labels = torch.tensor([0, 0, 1, 1])
    assert identification(torch.ones(4, 3), labels, torch.ones(1, 3)).rank1 == 0  # a collapsed network finds nothing
    # At random: the mate is the nearest of 1 + m.
    rows = torch.randn(2000, 32, generator=torch.Generator().manual_seed(0))
    assert identification(rows, torch.arange(2000) // 2, rows[:3] * -1 + rows[3:6]).rank1 == pytest.approx(
        1 / 4, abs=0.04
    )


@pytest.mark.parametrize(
    "labels, distractors, message",
    [
        ([0, 0, 1], 3, "distractors is 3; it should be below 3"),
        ([0, 0, 1], 0, "distractors is 0"),
        ([0, 1, 2], 1, "no class of two samples"),
        ([0, 0, 0], 2, "no class of two samples"),
        ([0, 0, 1], torch.ones(2, 3), r"distractors has shape \[2, 3\]; it should be \[m >= 1, 2\]"),
        ([0, 0, 1], torch.ones(0, 2), r"distractors has shape \[0, 2\]"),
        ([0, 0], 1.5, "distractors is 1.5"),
    ],
)
def test_identification_bad_input(labels, distractors, message):
    with pytest.raises((ValueError, TypeError), match=message):
        identification(torch.ones(len(labels), 2), torch.tensor(labels), distractors)
