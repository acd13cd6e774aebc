"""training/sharded/trained.py: backbone and head of a checkpoint, without the optimizer that it has."""

import json

import pytest
import torch
from torch import nn

from annsoftmax_ref import ANNSoftmax, CosFace, RowSGD
from annsoftmax_ref.training.sharded import Checkpoints, TrainingState, load_trained, newest_checkpoint

N, D = 60, 8


def parts(seed, classes=N):
    torch.manual_seed(seed)
    return nn.Linear(5, D), ANNSoftmax(classes, D, CosFace(8, 0.1), sample_rate=0.5, nlist=4, seed=seed)


@pytest.fixture
def saved(tmp_path):
    """A model and a head that were trained, and the folder with two checkpoints of them."""
    model, head = parts(0)
    optimizer = RowSGD([*model.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    with Checkpoints(tmp_path) as shelf:
        for step in range(1, 3):
            head(model(torch.randn(16, 5)), torch.randint(N, (16,))).backward()
            optimizer.step()
            optimizer.zero_grad()
            shelf.save(step, TrainingState(model, head, {"rows": optimizer}, settings={"a": 1}), {})
    return model, head, tmp_path


def test_the_newest_one_is_put_into_a_model_and_a_head(saved):
    model, head, folder = saved
    whole, content = newest_checkpoint(folder)
    assert whole.name == "step_00000002" and content["settings"] == {"a": 1} and content["classes"] == N
    other = parts(1)
    load_trained(whole, content, *other)
    for mine, theirs in zip(other, (model, head), strict=True):
        for (name, value), expected in zip(mine.state_dict().items(), theirs.state_dict().values(), strict=True):
            assert torch.equal(value, expected), name
    x = model(torch.randn(4, 5)).detach()
    assert other[1].recall_of_topk(x, 3, nprobe=4, candidates=N) == 1  # its index is there, too


def test_a_checkpoint_of_more_processes_leaves_the_index_to_be_made(saved):
    whole, content = newest_checkpoint(saved[2])
    model, head = parts(1)
    load_trained(whole, content | {"ranks": 2}, model, head)  # as if its index were others' own
    assert torch.equal(head.weight, saved[1].weight)
    with pytest.raises(ValueError, match="has no index"):
        head.topk(torch.ones(1, D), 3, approximate=True)


def test_what_is_no_checkpoint_or_of_another_head_is_told_with_nothing_changed(saved, tmp_path):
    whole, content = newest_checkpoint(saved[2])
    model, head = parts(1, classes=N + 1)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    with pytest.raises(ValueError, match="of another model: its rows/head.weight is"):
        load_trained(whole, content, model, head)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="which has no whole checkpoint; name a folder that annsoftmax train"):
        newest_checkpoint(tmp_path / "none")
    manifest = json.loads((whole / "manifest.json").read_text())
    (whole / "manifest.json").write_text(json.dumps(manifest | {"classes": 3}))
    with pytest.raises(ValueError, match="has been changed since it was written"):
        newest_checkpoint(saved[2])
