"""head.py: loss and gradients against the reference."""

import copy

import numpy as np
import pytest
import torch
from small_heads import assert_same_state, losses_of

from annsoftmax_ref import (
    AllClasses,
    ANNSoftmax,
    CosFace,
    NearestClasses,
    RandomClasses,
    RowSGD,
    SoftmaxHead,
    make_objective,
)
from annsoftmax_ref import reference as ref
from annsoftmax_ref.row_parameter import unwatched

OBJECTIVES = [("cross_entropy", 12.0, None), ("cosface", 12.0, 0.2), ("arcface", 12.0, 0.3), ("dsoftmax", 12.0, 0.8)]


def make(selector, n=53, d=10, objective=None, **options):
    return SoftmaxHead(n, d, selector, objective or CosFace(12.0, 0.2), dtype=torch.float64, **options).double()


def batch(n=53, d=10, b=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(b, d, generator=generator, dtype=torch.float64, requires_grad=True),
        torch.randint(n, (b,), generator=generator),
    )


LABELS = {
    "any": lambda y: y,
    "one twice": lambda y: torch.cat([y[:1], y[:-1]]),
    "all equal": lambda y: y[:1].expand_as(y),
}


@pytest.mark.parametrize("name, scale, margin", OBJECTIVES)
@pytest.mark.parametrize(
    "rate, groups, grouping", [(0.3, 1, "random"), (0.5, 3, "random"), (0.5, 4, "similar"), (1.0, 2, "random")]
)
@pytest.mark.parametrize("b", [1, 9])
@pytest.mark.parametrize("labels_are", list(LABELS))
def test_loss_and_gradients_equal_the_reference(name, scale, margin, rate, groups, grouping, b, labels_are):
    head = make(
        NearestClasses(rate, groups=groups, grouping=grouping, far=False), objective=make_objective(name, scale, margin)
    )
    x, labels = batch(b=b)
    labels = LABELS[labels_are](labels)
    before = copy.deepcopy(head)
    loss = head(x, labels)
    loss.backward()
    # The same active sets again, from the state before.
    before.selector.prepare(before.weight, before.generator)
    unit = torch.nn.functional.normalize(x.detach(), dim=1)
    active = before.selector.select(unit, labels, before.weight, before.generator)
    expected, dx, dw = ref.grouped_loss(
        x.detach().numpy(),
        head.weight.detach().numpy(),
        labels.numpy(),
        [g.samples.numpy() for g in active],
        [g.classes.numpy() for g in active],
        ref.make_objective(name, scale, margin),
    )
    assert abs(loss.item() - expected) < 1e-10 * max(1, abs(expected))
    np.testing.assert_allclose(x.grad.numpy(), dx, rtol=1e-10, atol=1e-10)
    assert head.weight.grad.is_sparse
    np.testing.assert_allclose(head.weight.grad.to_dense().numpy(), dw, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name, scale, margin", OBJECTIVES)
@pytest.mark.parametrize("selector", [AllClasses, lambda: RandomClasses(1.0), lambda: NearestClasses(1.0, groups=3)])
def test_with_all_classes_active_every_head_is_the_full_softmax(name, scale, margin, selector):
    head = make(selector(), objective=make_objective(name, scale, margin))
    x, labels = batch()
    loss = head(x, labels)
    loss.backward()
    expected, dx, dw = ref.full_loss(
        x.detach().numpy(), head.weight.detach().numpy(), labels.numpy(), ref.make_objective(name, scale, margin)
    )
    assert abs(loss.item() - expected) < 1e-10
    np.testing.assert_allclose(x.grad.numpy(), dx, rtol=1e-10, atol=1e-10)
    grad = head.weight.grad.to_dense() if head.weight.grad.is_sparse else head.weight.grad
    np.testing.assert_allclose(grad.numpy(), dw, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name, scale, margin", OBJECTIVES)
@pytest.mark.parametrize("groups", [1, 3])
def test_gradcheck(name, scale, margin, groups):
    head = make(NearestClasses(0.4, groups=groups), n=17, d=4, objective=make_objective(name, scale, margin))
    x, labels = batch(n=17, d=4, b=5)
    head.selector.prepare(head.weight, head.generator)
    active = head.selector.select(torch.nn.functional.normalize(x.detach(), dim=1), labels, head.weight, head.generator)

    def loss(x, weight):
        head.weight = torch.nn.Parameter(weight) if not weight.requires_grad else head.weight
        return head.loss_over(torch.nn.functional.normalize(x, dim=1), active)

    assert torch.autograd.gradcheck(lambda x: loss(x, head.weight), (x,))
    # The weight's gradient is sparse, which gradcheck does not take: central differences, row by row.
    loss(x, head.weight).backward()
    analytic = head.weight.grad.to_dense()
    direction = torch.randn(head.weight.shape, dtype=torch.float64)
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            head.weight.add_(direction, alpha=sign * 1e-6)
            values.append(loss(x, head.weight).item())
            head.weight.add_(direction, alpha=-sign * 1e-6)
    assert (values[0] - values[1]) / 2e-6 == pytest.approx((analytic * direction).sum().item(), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("selector", [AllClasses, lambda: RandomClasses(0.3), lambda: NearestClasses(0.3)])
def test_learns_with_batches_of_any_size_under_autocast(selector):
    torch.manual_seed(0)
    head = SoftmaxHead(40, 16, selector(), CosFace(12.0, 0.1))
    optimizer = RowSGD(head.parameters(), lr=1.0, momentum=0.9)
    x = torch.randn(40, 16)
    labels = torch.arange(40)
    for step in range(150):
        part = torch.randperm(40)[: 1 + step % 11]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = head(x[part], labels[part])
        assert loss.dtype == torch.float32 and torch.isfinite(loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (head.topk(x)[1].squeeze(1) == labels).float().mean() >= 0.95


def test_autocast_changes_the_loss_by_rounding_only():
    head = SoftmaxHead(200, 32, AllClasses(), CosFace(12.0, 0.1))
    x, labels = torch.randn(16, 32), torch.randint(200, (16,))
    exact = head(x, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = head(x, labels)
    assert rounded.item() == pytest.approx(exact.item(), rel=1e-2)


def test_half_precision_embeddings_are_taken():
    head = ANNSoftmax(100, 16)
    x = torch.randn(8, 16, dtype=torch.bfloat16, requires_grad=True)
    head(x, torch.arange(8)).backward()
    assert x.grad.dtype == torch.bfloat16 and torch.isfinite(x.grad).all()


def test_logits_topk_and_prototypes_agree():
    head = make(NearestClasses(0.2))
    x, labels = batch()
    x = x.detach()
    unit = torch.nn.functional.normalize(x, dim=1)
    cosine = unit @ head.prototypes().T
    torch.testing.assert_close(head.prototypes().norm(dim=1), torch.ones(53, dtype=torch.float64))
    torch.testing.assert_close(head.logits(x), 12.0 * cosine)
    classes = torch.tensor([7, 3, 7])
    torch.testing.assert_close(head.logits(x, classes), 12.0 * cosine[:, classes])
    values, ids = head.topk(x, 5)
    torch.testing.assert_close(values, cosine.topk(5).values)
    assert torch.equal(cosine.gather(1, ids), values)


def test_reading_the_head_gives_what_a_dense_optimizer_would_have_left():
    head, dense = make(RandomClasses(0.2)), None
    dense = torch.nn.Parameter(head.weight.detach().clone())
    row, full = (
        o([w], lr=0.1, momentum=0.9, weight_decay=0.01) for o, w in ((RowSGD, head.weight), (torch.optim.SGD, dense))
    )
    for step in range(10):
        x, labels = batch(seed=step)
        head(x, labels).backward()
        dense.grad = head.weight.grad.to_dense()
        for optimizer in (row, full):
            optimizer.step()
            optimizer.zero_grad()
    expected = torch.nn.functional.normalize(dense.detach(), dim=1)
    with unwatched():
        lagging = head.weight.detach().clone()
    torch.testing.assert_close(copy.deepcopy(head).weight, dense, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(lagging, dense, rtol=1e-6)  # it did lag before it was read
    torch.testing.assert_close(head.prototypes(), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(head.state_dict()["weight"], dense.detach(), rtol=1e-10, atol=1e-12)


def test_eval_mode_gives_the_exact_loss_and_changes_nothing():
    head = make(NearestClasses(0.2))
    x, labels = batch()
    head(x, labels)
    head.eval()
    before = copy.deepcopy(head.state_dict())
    expected, _, _ = ref.full_loss(
        x.detach().numpy(), head.weight.detach().numpy(), labels.numpy(), ref.make_objective("cosface", 12.0, 0.2)
    )
    assert head(x, labels).item() == pytest.approx(expected, abs=1e-10)
    assert_same_state(head.state_dict(), before)


def test_a_saved_head_goes_on_as_if_never_saved():
    def run(head, optimizer, seeds):
        return losses_of(head, optimizer, (batch(seed=seed) for seed in seeds))

    first = make(NearestClasses(0.2, refresh_steps=5))
    optimizer = RowSGD(first.parameters(), lr=0.1, momentum=0.9)
    run(first, optimizer, range(8))
    saved, saved_optimizer = copy.deepcopy(first.state_dict()), copy.deepcopy(optimizer.state_dict())
    second = make(NearestClasses(0.2, refresh_steps=5), seed=99)
    second.load_state_dict(saved)
    other = RowSGD(second.parameters(), lr=0.1, momentum=0.9)
    other.load_state_dict(saved_optimizer)
    assert run(first, optimizer, range(8, 20)) == run(second, other, range(8, 20))
    assert_same_state(first.state_dict(), second.state_dict())


def test_the_same_seed_gives_the_same_head():
    runs = []
    for _ in range(2):
        head = make(NearestClasses(0.2), seed=5)
        x, labels = batch()
        runs.append([head(x, labels).item() for _ in range(3)])
    assert runs[0] == runs[1]
    assert make(None, seed=6).weight[0, 0] != make(None, seed=5).weight[0, 0]
