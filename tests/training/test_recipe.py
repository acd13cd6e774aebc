"""Recipes, and the optimizer and schedule that follow from them."""

import pytest
from training_runs import RECIPE, new

from annsoftmax_ref.training import build_optimizer, build_scheduler, default_recipe


def test_schedule_rises_and_falls_to_zero():
    model, head, _ = new()
    optimizer = build_optimizer(model, head, RECIPE)
    scheduler = build_scheduler(optimizer, RECIPE, 100)
    rates = []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(RECIPE.lr) and rates.index(max(rates)) in (14, 15)
    assert rates[:15] == sorted(rates[:15]) and rates[15:] == sorted(rates[15:], reverse=True)
    assert 0 < rates[-1] < 0.02 * RECIPE.lr and optimizer.param_groups[0]["lr"] == 0
    for steps in (1, 2, 3):
        few = build_scheduler(build_optimizer(model, head, RECIPE), RECIPE, steps)
        assert few.get_last_lr()[0] > 0


def test_weight_decay_is_for_the_backbone_s_matrices():
    model, head, _ = new()
    groups = build_optimizer(model, head, RECIPE).param_groups
    decayed = {id(p) for g in groups if g["weight_decay"] > 0 for p in g["params"]}
    assert decayed == {id(p) for p in model.parameters() if p.dim() > 1}
    assert sum(len(g["params"]) for g in groups) == len([*model.parameters(), *head.parameters()])


def test_unknown_objective():
    with pytest.raises(ValueError, match="objective is 'softmax'; it should be one of cross_entropy"):
        default_recipe("softmax")
