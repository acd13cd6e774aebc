"""The plain loop: every precision trains, and the row-sparse head is the dense one under torch's own optimizer."""

import pytest
import torch
from torch.utils.data import DataLoader

from annsoftmax_ref import CosFace, RandomClasses, SoftmaxHead
from annsoftmax_ref.training.integrations import plain_loop
from annsoftmax_ref.training.integrations.plain_loop import train
from annsoftmax_ref.training.integrations.points import CLASSES, DIM, network, points


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
def test_it_trains_in_half_precision(kind):
    losses = train(kind, epochs=1)[2]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


def with_random_classes(num_classes, dim, objective, sample_rate, **options):
    """In ANNSoftmax's place, whose choice is another one with dense rows: its index learns of rows that catch up."""
    return SoftmaxHead(num_classes, dim, RandomClasses(sample_rate), objective, **options)


def test_accumulated_and_clipped_it_is_the_dense_loop_with_torchs_sgd(monkeypatch):
    monkeypatch.setattr(plain_loop, "ANNSoftmax", with_random_classes)
    backbone, head, losses = train(torch.float32, max_norm=1.0, epochs=1)
    other, dense = network(), with_random_classes(CLASSES, DIM, CosFace(16, 0.1), 0.1, sparse=False)
    parameters = [*other.parameters(), *dense.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.2, momentum=0.9)
    norms = []
    for number, (features, labels) in enumerate(DataLoader(points(), batch_size=50)):
        loss = dense(other(features), labels)
        assert losses[number] == pytest.approx(loss.item(), rel=1e-5)
        (loss / 2).backward()
        if number % 2:
            norms.append(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
            optimizer.step()
            optimizer.zero_grad()
    assert min(norms) > 1.0  # each one was clipped
    torch.testing.assert_close(head.weight, dense.weight, rtol=1e-4, atol=1e-5)
