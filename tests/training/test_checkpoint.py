"""Checkpoints of fit(): resuming changes nothing, and neither does saving."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from training_runs import RECIPE, new, results, same

from annsoftmax_ref.datasets.files import FileData
from annsoftmax_ref.factory import HEADS, make_head
from annsoftmax_ref.training import build_optimizer, fit
from annsoftmax_ref.training import checkpoint as files


@pytest.mark.parametrize("head_name", HEADS)
def test_interrupted_and_resumed_equals_uninterrupted(data, tmp_path, head_name):
    """Model, head (index and generator included), optimizer, schedule and history, bit for bit."""
    model, head, recipe = new(head_name)
    through = fit(model, head, data, recipe, seed=4, checkpoint=tmp_path / "through.pt", progress=False)
    unsaved = new(head_name)
    fit(*unsaved[:2], data, recipe, seed=4, progress=False)
    assert same(unsaved[0].state_dict(), model.state_dict()) and same(unsaved[1].state_dict(), head.state_dict())

    for interrupted in (_interrupted_between_epochs, _interrupted_within_an_epoch):
        path = tmp_path / f"{interrupted.__name__}.pt"
        model2, head2, _ = new(head_name)
        with pytest.raises(KeyboardInterrupt):
            fit(model2, head2, data, recipe, seed=4, checkpoint=path, progress=False, on_epoch=interrupted(head2))
        assert len(files.load(path)["history"]["epochs"]) == 1

        torch.manual_seed(99)  # nothing depends on the global generator
        resumed = fit(*new(head_name)[:2], data, recipe, seed=4, checkpoint=path, resume=True, progress=False)
        assert results(resumed) == results(through)
        ours, theirs = files.load(path), files.load(tmp_path / "through.pt")
        for part in ("model", "head", "optimizer", "scheduler", "run"):
            assert same(ours[part], theirs[part]), part
        # Once more: there is nothing left to do.
        again = fit(*new(head_name)[:2], data, recipe, seed=4, checkpoint=path, resume=True, progress=False)
        assert again == resumed
    assert not list(tmp_path.glob(".*"))


def _interrupted_between_epochs(head):
    def stop(history):
        if len(history.epochs) == 1:
            raise KeyboardInterrupt

    return stop


def _interrupted_within_an_epoch(head):
    calls = iter(range(35))  # some steps into the second epoch

    def stop(*_):
        if next(calls, None) is None:
            raise KeyboardInterrupt

    head.register_forward_pre_hook(stop)


def test_a_checkpoint_of_another_run_is_refused(data, tmp_path):
    model, head, recipe = new()
    recipe = dataclasses.replace(recipe, steps_per_epoch=2)
    fit(model, head, data, recipe, epochs=1, checkpoint=tmp_path / "run.pt", progress=False)
    weight = head.weight.clone()
    with pytest.raises(ValueError, match="is of another run: its seed is 0 and should be 1"):
        fit(model, head, data, recipe, epochs=1, seed=1, checkpoint=tmp_path / "run.pt", resume=True, progress=False)
    assert torch.equal(head.weight, weight)


class Words:
    """Samples that are words, each of its own class."""

    def __len__(self):
        return 60

    def batch(self, index):
        return index, index


def words(head_name):
    """A backbone whose rows lag, too, with a head on it; neither knows of the other."""
    model = nn.Embedding(60, 16, sparse=True)
    torch.nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(1))
    return model, make_head(head_name, 60, 16, RECIPE.make_objective(), rate=0.4, seed=2)


WORDS = FileData(Words(), Words(), 60, [])
FEW = dataclasses.replace(RECIPE, batch_size=8, steps_per_epoch=7)
SAMPLED = [name for name in HEADS if name != "full"]


class Wrapped(nn.Module):
    """A head within a module of somebody's own, of which ``fit`` knows no ``sync``."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, x, labels):
        return self.head(x, labels)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("head_name", SAMPLED)
def test_a_run_that_saves_ends_with_the_bits_of_one_that_does_not(head_name, wrapped, tmp_path):
    """Also where nobody looks at the weights between the epochs, which would bring them up to date."""
    ends = []
    for path in (tmp_path / "run.pt", None):
        model, head = words(head_name)
        head = Wrapped(head) if wrapped else head
        optimizer = build_optimizer(model, head, FEW)
        settings = {"optimizer": optimizer, "evaluate": lambda: 0.0, "progress": False}
        history = fit(model, head, WORDS, FEW, seed=4, checkpoint=path, **settings)
        ends.append((results(history), optimizer.state_dict(), model.state_dict(), head.state_dict()))
    for saved, unsaved in zip(*ends, strict=True):
        assert same(saved, unsaved)


def test_who_looks_after_an_epoch_finds_nothing_that_lags():
    model, head = words("ann")
    optimizer = build_optimizer(model, head, FEW)
    looks = []

    def look():
        kept = model.weight, head.weight, head.selector.index.codes, *optimizer.kept_tensors()
        return [t.detach().clone() for t in kept]

    def evaluate():
        seen = look()
        optimizer.flush()
        head.sync()
        looks.append(same(seen, look()))
        return 0.0

    fit(model, head, WORDS, FEW, optimizer=optimizer, evaluate=evaluate, progress=False)
    assert looks == [True] * FEW.epochs


def test_numbers_of_numpy_are_resumed_with(tmp_path):
    """A checkpoint is read without running code, so it may hold no number but Python's own."""
    few = dataclasses.replace(FEW, batch_size=np.int64(8), steps_per_epoch=np.int32(2), epochs=1)
    settings = {"evaluate": lambda: 0.0, "checkpoint": tmp_path / "run.pt", "progress": False}
    model, head = words("random")
    first = fit(model, head, WORDS, few, seed=np.int64(4), **settings)
    again = fit(model, head, WORDS, few, epochs=np.int64(1), seed=4, resume=True, **settings)
    assert again == first
