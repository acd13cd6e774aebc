"""mass_budget.py: the captured mass by hand, and a budget that follows it."""

import copy

import numpy as np
import pytest
import torch
from sampled import SCALE, D, N, problem, unit

from annsoftmax_ref import CrossEntropy, NearestClasses, SoftmaxHead
from annsoftmax_ref.beyond.mass_budget import MassBudget, captured_mass


def test_captured_mass_by_hand(generator):
    """With few enough classes outside, all of them are drawn and the number is exact."""
    x, labels, weight = problem(b=10)
    classes = torch.cat([labels, torch.arange(0, N, 3)]).unique()
    targets = torch.searchsorted(classes, labels)
    mass = (SCALE * x @ unit(weight).T).scatter(1, labels.unsqueeze(1), -torch.inf).softmax(dim=1)
    exact = mass[:, classes].sum(dim=1).mean().item()
    found = captured_mass(x, targets, weight, classes, SCALE, generator)
    assert N - len(classes) <= 256 and found == pytest.approx(exact)
    assert captured_mass(x, labels, weight, torch.arange(N), SCALE, generator) == 1.0
    assert captured_mass(x[:1], targets[:1] * 0, weight, labels[:1], SCALE, generator) == 0.0


@pytest.mark.parametrize("target", [0.6, 0.9])
def test_budget_reaches_the_target(target):
    x, labels, weight = problem(2000, 32, b=32)
    selector = NearestClasses(0.05, groups=4, mass_target=target)
    head = SoftmaxHead(2000, 32, selector, CrossEntropy(15.0), dtype=torch.float64).double()
    with torch.no_grad():
        head.weight.copy_(weight)
    head(x, labels)
    assert selector.active_classes > 100 and head.diagnose(x, labels)["captured_mass"] < target - 0.1
    for _ in range(150):
        head(x, labels)
    masses = [head.diagnose(x, labels)["captured_mass"]]
    for _ in range(20):
        head(x, labels)
        masses.append(head.diagnose(x, labels)["captured_mass"])
    assert np.mean(masses) == pytest.approx(target, abs=0.04)
    assert 100 < selector.active_classes < 2000


def test_budget_moves_only_in_training_and_is_saved():
    x, labels, _ = problem(b=16)
    head = SoftmaxHead(N, D, NearestClasses(0.1, groups=2, mass_target=0.95), CrossEntropy(SCALE), dtype=torch.float64)
    assert head.selector.active_classes == 30
    head(x, labels)
    first = head.selector.active_classes
    assert first > 30
    head.diagnose(x, labels)
    head.eval()(x, labels)
    with torch.no_grad():
        head.train()(x, labels)
    assert head.selector.active_classes == first
    for _ in range(5):
        head(x, labels)
    other = SoftmaxHead(N, D, NearestClasses(0.1, groups=2, mass_target=0.95), CrossEntropy(SCALE), dtype=torch.float64)
    other.load_state_dict(head.state_dict())
    assert other.selector.active_classes == head.selector.active_classes > first
    for _ in range(3):
        assert other(x, labels).item() == head(x, labels).item()
    assert other.selector.active_classes == head.selector.active_classes
    assert copy.deepcopy(head)(x, labels).item() == head(x, labels).item()


def test_budget_stays_between_the_rate_and_one():
    budget = MassBudget(0.1, 0.8)
    for _ in range(100):
        budget.follow(0.0)
    assert float(budget.rate) == 1.0
    for _ in range(300):
        budget.follow(1.0)
    assert float(budget.rate) == pytest.approx(0.1)


def test_check_budget_knows_the_present_budget():
    selector = NearestClasses(0.02, groups=1, mass_target=0.9)
    selector.bind(N, D)
    labels = torch.arange(10)
    with pytest.raises(ValueError, match="10 distinct classes into a group, more than its 6 active classes"):
        selector.check_budget(labels)
    selector.budget.rate.fill_(0.05)
    assert selector.active_classes == 15
    selector.check_budget(labels)
    selector = NearestClasses(0.7, mass_target=0.9)
    selector.bind(5, D)
    assert selector.active_classes == 4  # 0.7 * 5 rounds up, as a float32 it would not
