"""Accelerate itself runs the script: the losses of the plain loop, and states that are saved and loaded."""

import re
from pathlib import Path

import pytest
import torch
from processes import torchrun

from annsoftmax_ref.training.integrations import plain_loop
from annsoftmax_ref.training.integrations.points import points

pytest.importorskip("accelerate", reason="accelerate is not installed: pip install -e '.[integrations]'")
from annsoftmax_ref.training.integrations.with_accelerate import train  # noqa: E402


@pytest.fixture(autouse=True)
def fresh():
    from accelerate.state import AcceleratorState, GradientState

    yield
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps the precision of the first Accelerator
    GradientState._reset_state()


def test_its_losses_are_those_of_the_plain_loop():
    expected = plain_loop.train(torch.float32, max_norm=1.0, epochs=1)[2]
    assert train("no", max_norm=1.0, epochs=1, cpu=True)[3] == pytest.approx(expected, rel=1e-6)


def test_mixed_precision_trains_and_its_state_comes_back(tmp_path):
    accelerator, backbone, head, losses = train("bf16", epochs=1, cpu=True)
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    features, labels = points(1, seed=1).tensors
    accelerator.save_state(tmp_path)
    expected, state = head(backbone(features), labels).item(), head.generator.get_state()
    with torch.no_grad():
        head.weight.normal_()
        backbone[0].weight.normal_()
    accelerator.load_state(tmp_path)
    assert not torch.equal(head.generator.get_state(), state)
    assert head(backbone(features), labels).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_two_processes_train_the_backbone_under_ddp_and_have_half_of_the_classes_each():
    done = torchrun(2, Path(__file__).with_name("accelerate_runs.py"))
    assert done.returncode == 0, done.stderr[-3000:]
    runs = re.findall(r"run: (\d) (\w+) (\d+)((?: \d+\.\d{6})+)", done.stdout)
    assert sorted(run[:3] for run in runs) == [(str(rank), "DistributedDataParallel", "250") for rank in range(2)]
    losses = [float(loss) for loss in runs[0][3].split()]
    assert runs[0][3] == runs[1][3]  # the loss is that of both processes' samples
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
