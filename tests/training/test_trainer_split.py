"""training/trainer.py where classes are split: the same steps on any number of processes, and reports of one."""

import dataclasses
import threading

import pytest
import torch
from ranks import on_ranks
from torch import nn
from training_runs import results, same

from annsoftmax_ref import evaluation
from annsoftmax_ref.factory import make_head
from annsoftmax_ref.machine.device import in_precision
from annsoftmax_ref.training import default_recipe
from annsoftmax_ref.training.network import FeatureNet
from annsoftmax_ref.training.sharded import Checkpoints
from annsoftmax_ref.training.trainer import Trainer

CLASSES, DIM = 21, 8
RECIPE = dataclasses.replace(default_recipe(), batch_size=40, epochs=2, steps_per_epoch=6, lr=0.2)


class Points:
    def __init__(self, count):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(count) % CLASSES
        self.features = torch.randn(CLASSES, DIM, generator=generator)[self.labels]
        self.features += 0.2 * torch.randn(count, DIM, generator=generator)

    def __len__(self):
        return len(self.labels)

    def batch(self, index):
        return self.features[index], self.labels[index]


@dataclasses.dataclass
class Data:
    split: str = "faces"
    train: Points = dataclasses.field(default_factory=lambda: Points(420))
    test: Points = dataclasses.field(default_factory=lambda: Points(63))
    num_classes: int = CLASSES


class Request:
    """A request to stop."""

    wanted = False


ONE_AT_A_TIME = threading.Lock()


def network():
    """A network draws its first weights from torch's global generator, which is one for all threads."""
    with ONE_AT_A_TIME:
        return FeatureNet(DIM, DIM, 16)


def linear():
    """A backbone without a batch normalisation, which would see another part of the batch on each process."""
    model = nn.Linear(DIM, DIM, bias=False)
    nn.init.eye_(model.weight)
    return model


def trainer(group=None, model=None, head="full", data=None, **more):
    split = make_head(head, CLASSES, DIM, rate=0.9, process_group=group)
    if head == "full":
        rows = make_head("full", CLASSES, DIM, seed=3).weight.detach()
        split.weight.data.copy_(rows[split.shards.first : split.shards.last] if group else rows)
    return Trainer(model or linear(), split, data or Data(), RECIPE, **more)


@pytest.mark.parametrize("ranks", [2, 3])
def test_it_takes_the_steps_that_one_process_takes(ranks):
    def losses_report_and_weight(group=None):
        with in_precision("fp32"):
            run = trainer(group)
            run.run()
            losses = [row.loss for row in run.history.epochs]
            return losses, run.measured(evaluation.evaluate), run.model.weight.detach()

    whole = losses_report_and_weight()
    for losses, report, weight in on_ranks(ranks, lambda rank, group: losses_report_and_weight(group)):
        assert losses == pytest.approx(whole[0], 1e-5) and report == whole[1]
        assert torch.allclose(weight, whole[2], atol=1e-5)


def test_statistics_of_a_batch_normalisation_are_equal_on_all_processes():
    def rank(rank, group):
        split = trainer(group, network())
        split.run()
        return dict(split.model.named_buffers())

    first, second = on_ranks(2, rank)
    assert len(first) == 9 and same(first, second)


def test_a_request_on_one_process_stops_all_after_the_same_step_and_they_go_on(tmp_path):
    def rank(rank, group, stop_after=None, resume=False):
        with Checkpoints(tmp_path / str(stop_after or resume), group) as shelf:
            request = Request()
            split = trainer(group, network(), "ann", shelf=shelf, save_every=4, stop=request)

            def count(step, loss):
                request.wanted = request.wanted or (rank == 1 and step == stop_after)

            split.on_step = count
            split.begin(resume)
            split.run()
            return split.step, results(split.history), split.model.state_dict(), split.head.weight.detach().clone()

    whole = on_ranks(2, lambda rank_, group: rank(rank_, group))
    stopped = on_ranks(2, lambda rank_, group: rank(rank_, group, stop_after=7))
    assert [part[0] for part in stopped] == [8, 8]  # it was said with the next step, which is one that is saved
    (tmp_path / "7").rename(tmp_path / "True")
    resumed = on_ranks(2, lambda rank_, group: rank(rank_, group, resume=True))
    assert all(same(a, b) for a, b in zip(whole, resumed, strict=True))


def test_a_report_of_embeddings_alone_is_measured_by_process_0_and_known_to_all():
    def measure(model, head, data):
        calls.append(head.shards.rank)
        return {"recall_at_1": 0.5}

    calls = []
    reports = on_ranks(3, lambda rank, group: trainer(group, data=Data("embedding")).measured(measure))
    assert reports == [{"recall_at_1": 0.5}] * 3 and calls == [0]


def test_two_samples_for_each_process_are_needed():
    with pytest.raises(ValueError, match="batch is 40 for 21 processes; it should be at least 42"):
        head = make_head("full", CLASSES, DIM)
        head.shards = type("Many", (), {"rank": 0, "ranks": 21})
        Trainer(linear(), head, Data(), RECIPE)
