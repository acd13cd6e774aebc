"""Notebook 19's exercises: solutions do what they say, and what is nearly right is not."""

import math

import numpy as np
import pytest
import torch

from annsoftmax_ref import make_head
from annsoftmax_ref.lessons import check, tomorrow
from annsoftmax_ref.lessons.tomorrow import EXERCISES


def test_at_the_crossover_both_take_as_long_where_times_are_powers_of_the_classes():
    classes = np.array([1000, 8000, 30_000])
    full, ann = 0.001 * classes, 0.3 * classes**0.3  # equal where classes ** 0.7 = 300
    assert tomorrow.crossover(classes, full, ann) == pytest.approx(300 ** (1 / 0.7))
    assert tomorrow.crossover(classes, full, full / 2) == 1000
    assert tomorrow.crossover(classes, full, full * 2) == math.inf


def test_a_head_with_these_directions_knows_the_samples_that_they_were_made_of():
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 20
    x = generator.normal(size=(20, 16))[labels] + 0.2 * generator.normal(size=(60, 16))
    head = make_head("full", 5, 16)
    with torch.no_grad():
        ids = head.add_classes(20, torch.from_numpy(tomorrow.class_directions(x, labels, 20)).float())
    _, found = head.topk(torch.from_numpy(x).float(), 1)
    assert torch.equal(found[:, 0], ids[labels])


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 1.0])
def test_the_threshold_is_the_largest_that_keeps_the_share(share):
    cosines = np.random.default_rng(1).normal(size=101)
    threshold = tomorrow.known_threshold(cosines, share)
    assert (cosines >= threshold).mean() >= share > (cosines > threshold).mean()


@pytest.mark.parametrize(
    "name, wrong",
    [
        (  # a straight line in the times, not in their logarithms
            "crossover",
            lambda n, full, ann: n[0] + (n[1] - n[0]) * (ann[0] - full[0]) / (ann[0] - full[0] - ann[1] + full[1]),
        ),
        ("crossover", lambda n, full, ann: float(np.array(n)[np.array(ann) <= full].min(initial=np.inf))),
        (  # long samples count more
            "class_directions",
            lambda x, y, n: np.stack([x[y == c].sum(0) / np.linalg.norm(x[y == c].sum(0)) for c in range(n)]),
        ),
        (  # a mean is shorter than 1
            "class_directions",
            lambda x, y, n: np.stack([(x / np.linalg.norm(x, axis=1)[:, None])[y == c].mean(0) for c in range(n)]),
        ),
        ("known_threshold", lambda z, share: float(np.quantile(z, 1 - share))),  # between two of them
        ("known_threshold", lambda z, share: float(np.sort(z)[::-1][math.floor(share * len(z)) - 1])),  # rounded down
    ],
)
def test_what_is_nearly_right_is_not(name, wrong, capsys):
    assert check(EXERCISES[name], EXERCISES[name].solution)
    capsys.readouterr()
    assert not check(EXERCISES[name], wrong)
    assert "hint" in capsys.readouterr().out
