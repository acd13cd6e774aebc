"""fit(): it learns, its step is the plain step, and resuming changes nothing."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from annsoftmax_ref.datasets import load_glyphs
from annsoftmax_ref.datasets.files import FileData
from annsoftmax_ref.evaluation import accuracy
from annsoftmax_ref.factory import HEADS, make_head
from annsoftmax_ref.machine.device import autocast
from annsoftmax_ref.objectives import OBJECTIVES
from annsoftmax_ref.training import (
    History,
    build_optimizer,
    build_scheduler,
    default_recipe,
    fit,
    train_step,
)
from annsoftmax_ref.training import checkpoint as files
from annsoftmax_ref.training.network import ConvNet, FeatureNet

CLASSES = 150
RECIPE = dataclasses.replace(default_recipe("cosface"), batch_size=64, epochs=3, lr=0.2)


@pytest.fixture(scope="module")
def data():
    return load_glyphs(progress=False).subset(CLASSES)


def new(head="full", rate=0.5, objective="cosface"):
    recipe = dataclasses.replace(RECIPE, objective=objective, margin=default_recipe(objective).margin)
    model = ConvNet(embedding_size=32, width=8, seed=1)
    return model, make_head(head, CLASSES, 32, recipe.make_objective(), rate=rate, seed=2), recipe


def same(first, second):
    """Whether two (nested) states are equal bit for bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def results(history):
    return [(row.epoch, row.loss, row.accuracy, row.lr) for row in history.epochs]


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


@pytest.mark.parametrize("head_name", HEADS)
@pytest.mark.parametrize("moment", ["between epochs", "within an epoch"])
def test_interrupted_and_resumed_equals_uninterrupted(data, tmp_path, head_name, moment):
    """Model, head (index and generator included), optimizer, schedule and history, bit for bit."""
    path = tmp_path / "run.pt"

    def stop(history):
        if len(history.epochs) == 1 and moment == "between epochs":
            raise KeyboardInterrupt

    model, head, recipe = new(head_name)
    through = fit(model, head, data, recipe, seed=4, checkpoint=tmp_path / "through.pt", progress=False)
    unsaved = new(head_name)
    fit(*unsaved[:2], data, recipe, seed=4, progress=False)
    assert same(unsaved[0].state_dict(), model.state_dict()) and same(unsaved[1].state_dict(), head.state_dict())

    model2, head2, _ = new(head_name)
    if moment == "within an epoch":
        calls = iter(range(35))  # some steps into the second epoch
        head2.register_forward_pre_hook(lambda *_: _interrupt_at_the_end_of(calls))
    with pytest.raises(KeyboardInterrupt):
        fit(model2, head2, data, recipe, seed=4, checkpoint=path, on_epoch=stop, progress=False)
    assert len(files.load(path)["history"]["epochs"]) == 1

    model3, head3, _ = new(head_name)
    torch.manual_seed(99)  # nothing depends on the global generator
    resumed = fit(model3, head3, data, recipe, seed=4, checkpoint=path, resume=True, progress=False)
    assert results(resumed) == results(through)
    ours, theirs = files.load(path), files.load(tmp_path / "through.pt")
    for part in ("model", "head", "optimizer", "scheduler", "run"):
        assert same(ours[part], theirs[part]), part
    # Once more: there is nothing left to do.
    again = fit(*new(head_name)[:2], data, recipe, seed=4, checkpoint=path, resume=True, progress=False)
    assert again == resumed
    assert not list(tmp_path.glob(".*"))


def _interrupt_at_the_end_of(calls):
    if next(calls, None) is None:
        raise KeyboardInterrupt


def test_the_step_equals_one_plain_backward(data):
    """Cutting the graph at the embeddings changes nothing: same gradients, same weights after the step."""
    torch.manual_seed(0)
    inputs, labels = torch.rand(20, 1, 32, 32), torch.randint(CLASSES, (20,))
    (model, head), (plain, plain_head) = (new()[:2] for _ in range(2))
    optimizer, plain_optimizer = build_optimizer(model, head, RECIPE), build_optimizer(plain, plain_head, RECIPE)
    for _ in range(3):
        loss, milliseconds, embeddings = train_step(model, head, optimizer, inputs, labels)
        assert milliseconds > 0 and embeddings.shape == (20, 32)
        with autocast(inputs.device):
            out = plain(inputs)
        expected = plain_head(out.float(), labels)
        expected.backward()
        plain_optimizer.step()
        plain_optimizer.zero_grad()
        assert loss == expected.item()
    assert same(model.state_dict(), plain.state_dict()) and torch.equal(head.weight, plain_head.weight)


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
    for epochs in (0, 2.5, True):
        with pytest.raises(ValueError, match=f"epochs is {epochs}; it should be a whole number of at least 1"):
            fit(model, head, data, recipe, epochs=epochs, progress=False)
    for content in (b"", b"nonsense", b"PK\x03\x04 cut short"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="run.pt, which is broken or not a checkpoint"):
            fit(model, head, data, recipe, checkpoint=path, resume=True, progress=False)
    torch.save({"some": "thing"}, path)
    with pytest.raises(ValueError, match="not a checkpoint of fit"):
        fit(model, head, data, recipe, checkpoint=path, resume=True, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(before, (*model.parameters(), *head.parameters()), strict=True))


def test_a_checkpoint_of_another_run_is_refused(data, tmp_path):
    model, head, recipe = new()
    recipe = dataclasses.replace(recipe, steps_per_epoch=2)
    fit(model, head, data, recipe, epochs=1, checkpoint=tmp_path / "run.pt", progress=False)
    weight = head.weight.clone()
    with pytest.raises(ValueError, match="is of another run: its seed is 0 and should be 1"):
        fit(model, head, data, recipe, epochs=1, seed=1, checkpoint=tmp_path / "run.pt", resume=True, progress=False)
    assert torch.equal(head.weight, weight)


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


def test_unknown_objective():
    with pytest.raises(ValueError, match="objective is 'softmax'; it should be one of cross_entropy"):
        default_recipe("softmax")


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
