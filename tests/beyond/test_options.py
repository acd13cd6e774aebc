"""options.py and what all options promise of their active sets: sizes, order, targets, weights, draws, refusals."""

import math

import pytest
import torch
from sampled import OPTIONS, SCALE, D, bound, problem, unit

from annsoftmax_ref import CrossEntropy, NearestClasses, SoftmaxHead


@pytest.mark.parametrize(
    "option", [*OPTIONS.values(), {"tail": 0.01}, {"tail": 0.99}, {"priority": True, "rerank": False}]
)
@pytest.mark.parametrize(
    "n, rate, labels, options",
    [
        (1, 1.0, [0], {}),
        (5, 0.2, [3], {}),  # the positive takes the only place
        (5, 0.4, [3], {}),  # one place besides it
        (12, 0.5, [7] * 9, {}),  # labels all equal
        (12, 0.5, [0, 1, 2, 3, 4, 5], {}),  # positives take all places
        (12, 0.5, [0, 1, 2, 3, 4], {}),
        (97, 0.3, [5], {"groups": 4}),  # a group of one
        (97, 0.3, list(range(16)), {"nlist": 1}),
        (97, 0.9, list(range(16)), {"nlist": 8, "nprobe": 1, "candidates": 3}),
        (97, 0.3, list(range(16)), {"candidates": 97}),
    ],
)
def test_active_sets_are_what_is_promised(option, n, rate, labels, options):
    weight = problem(n)[2]
    x = unit(weight[labels] + 0.1)
    labels = torch.tensor(labels)
    selector, generator = bound(
        weight, rate, **({"groups": 1, "nlist": min(n, 4), "candidates": None} | options), **option
    )
    for group in selector.select(x, labels, weight, generator):
        assert len(group.classes) == len(group.log_weights) == selector.active_classes
        assert (group.classes.diff() > 0).all()
        assert torch.equal(group.classes[group.targets], labels[group.samples])
        assert group.log_weights.dtype == x.dtype and (group.log_weights[group.targets] == 0).all()
        assert torch.isfinite(group.log_weights).all() and (group.log_weights >= 0).all()


@pytest.mark.parametrize("option", list(OPTIONS.values()))
def test_all_classes_active_is_the_full_softmax(option):
    x, labels, _ = problem(60, b=12)
    head = SoftmaxHead(60, D, NearestClasses(1.0, groups=3, **option), CrossEntropy(SCALE), dtype=torch.float64)
    head.double()(x, labels)
    for group in head.selector.select(x, labels, head.weight, head.generator):
        assert torch.equal(group.classes, torch.arange(60)) and (group.log_weights == 0).all()
    assert head(x, labels).item() == pytest.approx(head.eval()(x, labels).item(), rel=1e-12)


@pytest.mark.parametrize("option", list(OPTIONS.values()))
def test_draws_follow_the_generator(option):
    x, labels, weight = problem()
    runs = []
    for seed in (1, 1, 2):
        selector, _ = bound(weight, groups=1, **option)
        generator = torch.Generator().manual_seed(seed)
        first, second = (selector.select(x, labels, weight, generator)[0].classes for _ in range(2))
        assert not torch.equal(first, second)  # drawn anew each step
        runs.append(first)
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"tail": 1.0}, ValueError, "tail is 1.0; it should be from 0 to below 1"),
        ({"tail": -0.1}, ValueError, "tail is -0.1"),
        ({"tail": math.nan}, ValueError, "tail is nan"),
        ({"tail": "half"}, TypeError, "tail is 'half'"),
        ({"tail": True}, TypeError, "tail is True"),
        ({"tail": 0.5, "priority": True}, ValueError, "tail is 0.5 and priority is True; .*choose one"),
        ({"priority": 1}, TypeError, "priority is 1; it should be True or False"),
        ({"priority": True, "centre": True, "rerank": False}, ValueError, "centre is True with rerank=False"),
        ({"far": 1}, TypeError, "far is 1; it should be True, False or None"),
        (
            {"far": True, "tail": 0.5},
            ValueError,
            "far is True with Tail.*; it goes with neither tail nor priority",
        ),
        ({"mass_target": 1.0}, ValueError, "mass_target is 1.0; it should be above 0 and below 1"),
        ({"mass_target": 0}, ValueError, "mass_target is 0"),
        ({"mass_target": "most"}, TypeError, "mass_target is 'most'"),
    ],
)
def test_bad_options_get_one_clear_sentence(options, error, words):
    with pytest.raises(error, match=words):
        NearestClasses(0.1, **options)


@pytest.mark.parametrize("option", list(OPTIONS.values()))
def test_more_labels_than_places_are_refused(option):
    x, labels, weight = problem(b=20)
    selector, generator = bound(weight, 0.02, groups=1, **option)
    with pytest.raises(ValueError, match="distinct classes, more than the 6 active classes"):
        selector.select(x, torch.arange(20), weight, generator)
