"""training/trainer.py: a run can be stopped after any step, and goes on as if it had not been."""

import dataclasses
import math

import pytest
import torch
from training_runs import new, results, same

from annsoftmax_ref import evaluation
from annsoftmax_ref.training import fit
from annsoftmax_ref.training.sharded import Checkpoints
from annsoftmax_ref.training.trainer import Trainer


class StopAfter:
    """A request to stop that comes after so many of a trainer's steps."""

    def __init__(self, steps):
        self.left = steps

    @property
    def wanted(self):
        return self.left <= 0

    def count(self, step, loss):
        self.left -= 1


def trainer(data, head="ann", steps=6, stop=None, **more):
    model, head, recipe = new(head)
    recipe = dataclasses.replace(recipe, epochs=2, steps_per_epoch=steps)
    return Trainer(model, head, data, recipe, stop=stop, on_step=stop and stop.count, **more)


def state(run):
    run._state().bring_up_to_date()
    return {"model": run.model.state_dict(), "head": run.head.state_dict(), "rows": run.optimizer.state_dict()}


@pytest.mark.parametrize("head, after", [("ann", 3), ("ann", 9), ("full", 6), ("random", 9)])
def test_a_run_that_was_stopped_ends_where_one_ends_that_was_not(data, tmp_path, head, after):
    whole = trainer(data, head, shelf=Checkpoints(tmp_path / "whole"), save_every=3)
    whole.begin()
    whole.run()
    with Checkpoints(tmp_path / "stopped") as shelf:
        first = trainer(data, head, stop=StopAfter(after), shelf=shelf, save_every=3)
        first.begin()
        first.run()
        assert first.step == after == shelf.latest() and not first.finished
    with Checkpoints(tmp_path / "stopped") as shelf:
        second = trainer(data, head, shelf=shelf, save_every=3)
        second.begin(resume=True)
        assert second.step == after
        second.run()
    assert second.finished and results(second.history) == results(whole.history)
    assert same(state(second), state(whole))


def test_it_learns_as_fit_does(data):
    ours, (model, head, recipe) = trainer(data, "full", steps=60), new("full")
    history = fit(model, head, data, dataclasses.replace(recipe, epochs=2, steps_per_epoch=60), progress=False)
    ours.run()
    assert [row.lr for row in ours.history.epochs] == [row.lr for row in history.epochs]
    assert ours.history.accuracy == pytest.approx(history.accuracy, abs=0.1) and history.accuracy > 0.5
    assert ours.history.epochs[0].head_ms > 0 and ours.seconds == ours.history.seconds > 0


def test_the_order_is_that_of_fit_and_the_augmentation_is_not_remembered(data):
    """Without augmentation and dropout the two loops take the same steps."""
    ours, (model, head, _) = trainer(data, "full"), new("full")
    plain = dataclasses.replace(ours.recipe, augmentation=None)
    ours.recipe = plain
    ours.run()
    history = fit(model, head, data, plain, progress=False)
    assert [row.loss for row in ours.history.epochs] == pytest.approx([row.loss for row in history.epochs], rel=1e-6)


def test_what_the_backbone_draws_follows_from_the_step(data, tmp_path):
    def with_dropout(**more):
        run = trainer(data, "full", **more)
        run.model.embed = torch.nn.Sequential(torch.nn.Dropout(0.3), run.model.embed)
        return run

    whole = with_dropout(save_every=4, shelf=Checkpoints(tmp_path / "a"))
    whole.run()
    with Checkpoints(tmp_path / "b") as shelf:
        with_dropout(stop=StopAfter(4), shelf=shelf).run()
    torch.rand(7)
    with Checkpoints(tmp_path / "b") as shelf:
        second = with_dropout(shelf=shelf, save_every=4)
        second.begin(resume=True)
        second.run()
    assert same(state(second), state(whole))


def test_a_shelf_with_checkpoints_is_refused_without_resume_and_an_empty_one_is_a_beginning(data, tmp_path):
    with Checkpoints(tmp_path) as shelf:
        first = trainer(data, stop=StopAfter(2), shelf=shelf)
        first.begin(resume=True)
        first.run()
        with pytest.raises(ValueError, match="has one of step 2 already; add --resume"):
            trainer(data, shelf=shelf).begin()
        with pytest.raises(ValueError, match="of another run: its seed is 0 and should be 5"):
            trainer(data, shelf=shelf, seed=5).begin(resume=True)


def test_epochs_are_tested_as_often_as_is_asked_and_the_last_one_always(data):
    run = trainer(data, "full", steps=2, evaluate_every=2)
    run.recipe = dataclasses.replace(run.recipe, epochs=3)
    run.run()
    assert [row.accuracy is None for row in run.history.epochs] == [True, False, False]
    assert run.measured(evaluation.evaluate)["accuracy"] == run.history.accuracy
    never = trainer(data, "full", steps=2, evaluate_every=0)
    never.run()
    assert [row.accuracy for row in never.history.epochs] == [None, None]


def test_batches_that_are_too_small_or_too_large_are_refused(data):
    model, head, recipe = new()
    for size, words in (
        (1, "batch is 1 for 1 processes; it should be at least 2"),
        (10**6, "more than the .* samples"),
    ):
        with pytest.raises(ValueError, match=words):
            Trainer(model, head, data, dataclasses.replace(recipe, batch_size=size))


def test_divergence_is_said(data):
    run = trainer(data, "full")
    run.model.embed.weight.data.fill_(math.nan)
    with pytest.raises((FloatingPointError, ValueError)):
        run.run()
