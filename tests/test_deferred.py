"""The look at a batch that is answered when the backward pass begins; on the CPU, with an event that is made up."""

import copy

import pytest
import torch

from annsoftmax_ref import CosFace, NearestClasses, RandomClasses, RowSGD, SoftmaxHead, deferred

BAD = {
    "a label beyond the classes": (lambda x, y: (x, y.index_fill(0, torch.tensor([3]), 900)), "labels holds 900"),
    "a negative label": (lambda x, y: (x, y.index_fill(0, torch.tensor([3]), -1)), "labels holds -1"),
    "a NaN": (lambda x, y: (x * torch.nan, y), "embeddings holds NaN"),
    "a row of zeros": (lambda x, y: (x.index_fill(0, torch.tensor([2]), 0), y), r"row of zeros \(row 2\)"),
}


class Reached:
    waits = 0

    def synchronize(self):
        Reached.waits += 1


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Batches are looked at as those on a GPU are."""
    monkeypatch.setattr(deferred, "_is_deferred", lambda embeddings: torch.is_grad_enabled())
    monkeypatch.setattr(deferred, "_mark", lambda device: Reached())
    Reached.waits = 0


def made(selector):
    head = SoftmaxHead(200, 16, selector, CosFace())
    return head, RowSGD(head.parameters(), lr=0.1, momentum=0.9)


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(24, 16, generator=generator)
    return x, torch.randint(200, (24,), generator=generator)


def losses(head, optimizer):
    found = []
    for seed in range(4):
        x, labels = batch(seed)
        loss = head(x.requires_grad_(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append((loss.detach(), x.grad))
    return found


def test_a_sound_batch_gives_what_it_gave(monkeypatch, on_a_gpu):
    ours = losses(*made(NearestClasses(0.2)))
    assert Reached.waits == 4  # one a step
    monkeypatch.undo()
    for (loss, grad), (expected, expected_grad) in zip(ours, losses(*made(NearestClasses(0.2))), strict=True):
        assert torch.equal(loss, expected) and torch.equal(grad, expected_grad)


@pytest.mark.parametrize("selector", [lambda: NearestClasses(0.2), lambda: RandomClasses(0.2), lambda: None])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_batch_is_refused_before_there_is_a_gradient(on_a_gpu, bad, selector):
    spoil, sentence = bad
    head, optimizer = made(selector())
    losses(head, optimizer)
    head.sync()
    before = head.weight.detach().clone()
    x, labels = spoil(*batch(9))
    x.requires_grad_()
    loss = head(x, labels)  # nobody has waited
    with pytest.raises(ValueError, match=sentence):
        loss.backward()
    assert x.grad is None and head.weight.grad is None and torch.equal(head.weight, before)
    losses(head, optimizer)  # and the next ones are taken


def test_without_a_backward_pass_the_next_call_refuses_it(on_a_gpu):
    head, _ = made(RandomClasses(0.2))
    x, labels = batch()
    head(x, labels + 500)
    with pytest.raises(ValueError, match="labels holds"):
        head(x, labels)
    head(x, labels)


def test_what_is_of_another_kind_or_shape_is_refused_at_once(on_a_gpu):
    head, _ = made(RandomClasses(0.2))
    x, labels = batch()
    with pytest.raises(ValueError, match="labels has shape"):
        head(x, labels[:3])
    with pytest.raises(TypeError, match="embeddings is of type"):
        head(x.long(), labels)


def test_without_a_gradient_to_come_the_answer_is_waited_for(on_a_gpu):
    head, _ = made(RandomClasses(0.2))
    x, labels = batch()
    with torch.no_grad(), pytest.raises(ValueError, match="labels holds"):
        head(x, labels + 500)


def test_a_copy_has_seen_no_batch(on_a_gpu):
    head, _ = made(RandomClasses(0.2))
    x, labels = batch()
    head(x, labels + 500)
    copy.deepcopy(head)(x, labels)
    with pytest.raises(ValueError, match="labels holds"):
        head(x, labels)
