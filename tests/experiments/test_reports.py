"""reports.py: means and spreads, tables, and what runs of the same seeds say about each other."""

import random
from statistics import mean, stdev

import pytest

from annsoftmax_ref.experiments import reports
from annsoftmax_ref.experiments.reports import Gap


def rows(*accuracies, **fields):
    return [{"seed": seed, "metrics": {"accuracy": value}, **fields} for seed, value in enumerate(accuracies)]


def test_means_and_spreads():
    three = rows(0.5, 0.6, 0.7, head_ms=3.0, recall=0.25)
    assert reports.percent("accuracy")(three) == "60.0 ± 10.0"
    assert reports.percent("accuracy", "%")(three) == "60.0% ± 10.0"
    assert reports.percent("accuracy")(three[:1]) == "50.0"
    assert reports.percent("top5")(three) == "-"
    assert reports.plain("head_ms", ".2f")(three) == "3.00" and reports.plain("recall", ".0%")(three) == "25%"


def test_cross_puts_first_labels_down_and_second_across():
    text = reports.cross({("a", "x"): rows(0.5), ("b", "y"): rows(0.5)}, reports.percent("accuracy"), "corner")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert lines[0] == ["corner", "x", "y"] and lines[2:] == [["a", "50.0", "-"], ["b", "-", "50.0"]]
    assert len({len(line) for line in text.splitlines()}) == 1


def test_runs_of_a_seed_are_compared_with_each_other_and_with_no_others():
    ours, theirs = rows(0.5, 0.6, 0.7), rows(0.4, 0.45, 0.5, 0.9)
    gap = reports.paired_gap(ours, list(reversed(theirs)), "accuracy")
    assert (gap.mean, gap.spread, gap.pairs) == (pytest.approx(15), pytest.approx(stdev([10, 15, 20])), 3)
    assert reports.paired_gap(ours[:1], theirs[1:], "accuracy") is None


def test_a_small_gap_that_every_seed_shows_is_told_apart_however_much_the_seeds_differ():
    """-0.75, -0.73 and -0.94 points, which were once called not told apart by the spread of each head."""
    full, ann = rows(0.9320, 0.9370, 0.9270), rows(0.9245, 0.9297, 0.9176)
    assert reports.paired_gap(ann, full, "accuracy").told_apart
    assert (
        reports.gaps({("full",): full, ("ann",): ann}, "accuracy")
        == "ann is 0.8 ± 0.1 behind full, in points over 3 pairs."
    )


def test_a_gap_that_seeds_disagree_on_is_not_told_apart():
    full, ann = rows(0.90, 0.90, 0.90), rows(0.94, 0.90, 0.91)
    assert reports.gaps({("full",): full, ("ann",): ann}, "accuracy") == (
        "ann is not told apart from full (1.7 ± 2.1 ahead), in points over 3 pairs."
    )


def test_two_heads_that_are_alike_are_told_apart_one_time_in_twenty():
    drawn = random.Random(0)
    told = []
    for pairs in (2, 3, 5, 10):
        differences = [[drawn.gauss(0, 1) for _ in range(pairs)] for _ in range(4000)]
        told.append(mean(Gap(mean(some), stdev(some), pairs).told_apart for some in differences))
    assert all(0.04 < share < 0.06 for share in told), told
    assert not Gap(5.0, 0.0, 1).told_apart


def test_a_sentence_says_who_won_whichever_way_it_went():
    cells = {("full",): rows(0.9), ("random",): rows(0.7), ("ann",): rows(0.88)}
    assert reports.gaps(cells, "accuracy") == "ann is 2.0 behind full, 18.0 ahead of random, in points over 1 pair."
    assert (
        reports.gaps(cells, "accuracy", rivals=("random", "lsh"))
        == "ann is 18.0 ahead of random, in points over 1 pair."
    )
    assert reports.gaps({("full",): rows(0.9)}, "accuracy") == ""
    objectives = {(*labels, "cosface"): rows for labels, rows in cells.items()}
    assert reports.findings(objectives) == [
        "cosface, accuracy: ann is 2.0 behind full, 18.0 ahead of random, in points over 1 pair."
    ]
