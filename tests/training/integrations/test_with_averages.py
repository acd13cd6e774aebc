"""torch's AveragedModel over backbone and head: the averages of dense rows, which predict, train on and are loaded."""

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from annsoftmax_ref import ANNSoftmax, CosFace, RowSGD
from annsoftmax_ref.training.integrations.points import CLASSES, DIM, network, points
from annsoftmax_ref.training.integrations.with_averages import train

AVERAGES = {"EMA": dict(multi_avg_fn=get_ema_multi_avg_fn(0.9)), "SWA": {}}


def test_the_averages_of_a_run_know_new_points():
    features, labels = points(1, seed=1).tensors
    for model in train(epochs=3, swa_from=1):
        model.eval()
        found = model["head"].topk(model["backbone"](features))[1][:, 0]
        assert (found == labels).float().mean() > 0.9


def made():
    head = ANNSoftmax(CLASSES, DIM, CosFace(16, 0.1), sample_rate=0.1)
    model = torch.nn.ModuleDict({"backbone": network(normalised=True), "head": head})
    return model, RowSGD(model.parameters(), lr=0.2, momentum=0.9)


def steps(model, optimizer, count=8, first=0):
    features, labels = points().tensors
    for step in range(first, first + count):
        part = slice(50 * step, 50 * step + 50)
        loss = model["head"](model["backbone"](features[part]), labels[part])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("kind", AVERAGES)
def test_the_average_is_that_of_dense_rows_though_rows_lag(kind, use_buffers):
    model, optimizer = made()
    average = AveragedModel(model, use_buffers=use_buffers, **AVERAGES[kind])
    mean = None
    for number, _ in enumerate(steps(model, optimizer)):
        average.update_parameters(model)
        now = copy.deepcopy(model["head"]).weight.detach()
        share = 1.0 if number == 0 else 0.1 if kind == "EMA" else 1 / (number + 1)
        mean = now if mean is None else torch.lerp(mean, now, share)
    torch.testing.assert_close(average.module["head"].weight.detach(), mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("kind", AVERAGES)
def test_an_average_trains_on_and_so_does_what_is_loaded_from_it(kind, use_buffers):
    model, optimizer = made()
    average = AveragedModel(model, use_buffers=use_buffers, **AVERAGES[kind])
    for _ in steps(model, optimizer):
        average.update_parameters(model)
    loaded = made()[0]
    loaded.load_state_dict(average.module.state_dict())
    for other in (loaded, average.module):
        assert stale_codes(other["head"]) == 0  # those that were averaged, or copied, are of other rows
        losses = list(steps(other, RowSGD(other.parameters(), lr=0.2, momentum=0.9), 20, 8))
        assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
        other["head"].sync()
        assert stale_codes(other["head"]) == 0


def stale_codes(head):
    rows, index = head.prototypes(), head.selector.index
    return (index.encode(rows) != index.codes).any(dim=1).sum()
