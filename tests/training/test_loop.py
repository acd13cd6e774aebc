"""fit(): it learns, says what it sees, and refuses what it cannot do."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn
from training_runs import RECIPE, new

from annsoftmax_ref.datasets import load_glyphs
from annsoftmax_ref.datasets.files import FileData
from annsoftmax_ref.evaluation import accuracy
from annsoftmax_ref.factory import make_head
from annsoftmax_ref.objectives import OBJECTIVES
from annsoftmax_ref.training import History, fit
from annsoftmax_ref.training.network import ConvNet, FeatureNet


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_it_learns(data, objective):
    model, head, recipe = new(objective=objective)
    history = fit(model, head, data, recipe, epochs=6, progress=False)
    assert [row.epoch for row in history.epochs] == [1, 2, 3, 4, 5, 6]
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert history.accuracy > 0.75
    assert history.accuracy == accuracy(model, head, data.test)
    seconds = [row.seconds for row in history.epochs]
    assert seconds == sorted(seconds) and 0 < history.epochs[0].head_ms < 1000 * seconds[0]
    assert History.from_dict(json.loads(json.dumps(history.to_dict()))) == history


def test_own_optimizer_and_steps_per_epoch(data):
    model, head, recipe = new()
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.05)
    recipe = dataclasses.replace(recipe, steps_per_epoch=4, augmentation=None)
    history = fit(model, head, data, recipe, optimizer=optimizer, epochs=2, progress=False)
    assert [row.lr for row in history.epochs] == [0.05, 0.05]
    assert all(math.isfinite(row.loss) for row in history.epochs)


def test_diagnostics_are_sampled_and_change_nothing_drawn(data):
    model, head, recipe = new("random")
    history = fit(model, head, data, recipe, epochs=1, diagnose_every=5, progress=False)
    steps = len(data.train) // recipe.batch_size
    assert [d["step"] for d in history.diagnostics] == list(range(5, steps + 1, 5))
    assert all(
        0 <= d["recall"] <= 1 and 0 <= d["captured_mass"] <= 1.001 and d["cost_ms"] > 0 for d in history.diagnostics
    )
    again = new("random")
    assert fit(*again[:2], data, recipe, epochs=1, progress=False).epochs[0].loss == pytest.approx(
        history.epochs[0].loss, rel=1e-3
    )


def test_unseen_classes_are_tested_by_retrieval():
    data = load_glyphs(progress=False, split="embedding")
    model = ConvNet(embedding_size=32, width=8)
    head = make_head("random", data.num_classes, 32, "cosface", rate=0.05)
    data.test = data.test.select(data.test.labels < data.num_classes + 100)
    recipe = dataclasses.replace(RECIPE, steps_per_epoch=10)
    history = fit(model, head, data, recipe, epochs=1, progress=False)
    assert 0.2 < history.accuracy <= 1


def test_progress_shows_loss_and_accuracy(data, capsys):
    model, head, recipe = new()
    fit(model, head, data, dataclasses.replace(recipe, steps_per_epoch=10), epochs=2)
    shown = capsys.readouterr().err
    assert "epoch 2/2" in shown and "loss" in shown and "accuracy" in shown and "step/s" in shown


def test_bad_input_is_refused_before_anything_changes(data, tmp_path):
    model, head, recipe = new()
    before = [p.clone() for p in (*model.parameters(), *head.parameters())]
    blocker, path = tmp_path / "file", tmp_path / "run.pt"
    blocker.write_text("")
    with pytest.raises(ValueError, match="checkpoint is .*file/run.pt, which cannot be written"):
        fit(model, head, data, recipe, checkpoint=blocker / "run.pt", progress=False)
    with pytest.raises(ValueError, match="resume is True but checkpoint is None"):
        fit(model, head, data, recipe, resume=True, progress=False)
    for name in ("epochs", "batch_size", "steps_per_epoch"):
        for value, error in ((0, ValueError), (2.5, TypeError), (True, TypeError)):
            wrong = dataclasses.replace(recipe, **{name: value})
            with pytest.raises(error, match=f"{name} is {value}; it should be .*at least 1"):
                fit(model, head, data, wrong, progress=False)
    for seed, error in ((-1, ValueError), (0.5, TypeError)):
        with pytest.raises(error, match=f"seed is {seed}; it should be .*at least 0"):
            fit(model, head, data, recipe, seed=seed, progress=False)
    for content in (b"", b"nonsense", b"PK\x03\x04 cut short"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="run.pt, which is broken or not a checkpoint"):
            fit(model, head, data, recipe, checkpoint=path, resume=True, progress=False)
    torch.save({"some": "thing"}, path)
    with pytest.raises(ValueError, match="not a checkpoint of fit"):
        fit(model, head, data, recipe, checkpoint=path, resume=True, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, (*model.parameters(), *head.parameters()), strict=True))


def test_divergence_is_said(data):
    class Exploding(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, embeddings, labels):
            return embeddings.sum() * self.weight.sum() + math.inf

    model = ConvNet(embedding_size=32, width=8)
    weights = [p.clone() for p in model.parameters()]
    with pytest.raises(FloatingPointError, match="the loss is inf: training has diverged"):
        fit(model, Exploding(), data, RECIPE, evaluate=lambda: 0.0, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


class Rows:
    """Features [n, 4]; a set whose samples have two labels each if it draws them."""

    def __init__(self, draws):
        self.draws, self.seen = draws, []

    def __len__(self):
        return 128

    def batch(self, index, generator=None):
        assert (generator is not None) == self.draws
        labels = index % 4
        if self.draws:
            labels = labels + 4 * torch.randint(2, (len(index),), generator=generator)
            self.seen.append(labels)
        return torch.eye(4)[index % 4] + 0.1, labels


@pytest.mark.parametrize("draws", [False, True])
def test_features_are_read_as_they_are_and_labels_drawn_by_the_seed(draws):
    runs = []
    for seed in (0, 0, 1):
        train = Rows(draws)
        data = FileData(train, Rows(False), 8, [])
        model, head = FeatureNet(4, 8, hidden=8), make_head("full", 8, 8, RECIPE.make_objective())
        history = fit(
            model, head, data, dataclasses.replace(RECIPE, batch_size=16), epochs=3, seed=seed, progress=False
        )
        runs.append((history.epochs[-1].loss, torch.stack(train.seen).tolist() if draws else None))
        assert draws or history.accuracy == 1
    assert runs[0] == runs[1] != runs[2]
