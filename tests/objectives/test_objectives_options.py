"""The heads' options: bias, label smoothing, class weights of 0 and ignore_index."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_heads import SELECTORS, B, D, N, active_sets, batch, check, expected, made, random_bias

from annsoftmax_ref import (
    AllClasses,
    CrossEntropy,
    NearestClasses,
    RandomClasses,
    RowAdamW,
    RowSGD,
    SoftmaxHead,
)
from annsoftmax_ref.row_parameter import unwatched

SAMPLED = {name: make for name, make in SELECTORS.items() if name != "all"}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("selector", SELECTORS)
def test_bias_equals_the_reference(selector, weighted):
    class_weights = torch.linspace(0, 3, N, dtype=torch.float64) if weighted else None
    head = random_bias(made(SELECTORS[selector](), bias=True, class_weights=class_weights))
    x, labels = batch()
    check(head, x, labels, class_weights[labels].numpy() if weighted else None)


@pytest.mark.parametrize("ignored", [-100, 7])
@pytest.mark.parametrize("smoothing, weighted, bias", [(0.2, False, True), (0.0, True, True), (0.0, True, False)])
def test_the_full_head_is_torchs_cross_entropy(smoothing, weighted, bias, ignored):
    class_weights = torch.linspace(0.1, 3, N, dtype=torch.float64) if weighted else None
    objective = CrossEntropy(12.0, label_smoothing=smoothing)
    head = made(AllClasses(), objective, bias=bias, class_weights=class_weights, ignore_index=ignored)
    if bias:
        random_bias(head)
    x, labels = batch()
    labels[[1, 4]] = ignored
    for mode in (True, False):
        theirs = F.cross_entropy(
            head.train(mode).logits(x), labels, weight=class_weights, ignore_index=ignored, label_smoothing=smoothing
        )
        grads = [torch.autograd.grad(loss, [x, *head.parameters()]) for loss in (head(x, labels), theirs)]
        assert head(x, labels).item() == pytest.approx(theirs.item(), rel=1e-12)
        for ours, torchs in zip(*grads, strict=True):
            torch.testing.assert_close(ours, torchs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("smoothing, bias", [(0.2, False), (0.0, True), (0.2, True)])
def test_options_hold_in_float32_too(smoothing, bias):
    """Where the fused kernel would run, which knows neither."""
    head = SoftmaxHead(N, D, AllClasses(), CrossEntropy(12.0, label_smoothing=smoothing), bias=bias)
    if bias:
        random_bias(head)
    x, labels = batch()
    theirs = F.cross_entropy(head.logits(x.float()), labels, label_smoothing=smoothing)
    assert head(x.float(), labels).item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("selector", SELECTORS)
def test_where_all_weights_are_zero_loss_and_gradients_are_zero(selector):
    head = made(SELECTORS[selector](), "cosface", class_weights=torch.arange(N).clamp_max(1).double())
    x, _ = batch()
    loss = head(x, torch.zeros(B, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0 and not x.grad.any() and not head.weight.grad.to_dense().any()


@pytest.mark.parametrize("name", ["cross_entropy", "dsoftmax_b"])
@pytest.mark.parametrize("selector", SELECTORS)
def test_ignoring_is_as_if_the_samples_were_not_there(selector, name):
    x, labels = batch()
    labels[[0, 5]] = -100
    kept = labels != -100
    one, other = (made(SELECTORS[selector](), name, ignore_index=-100) for _ in range(2))
    for _ in range(3):
        mine, theirs = one(x, labels), other(x[kept], labels[kept])
        assert mine.item() == theirs.item()
    (dx,) = torch.autograd.grad(mine, x, retain_graph=True)
    assert not dx[~kept].any() and dx[kept].any()
    assert one.diagnose(x, labels) == other.diagnose(x[kept], labels[kept])


def test_padding_may_be_zeros_and_more_than_the_budget_if_it_is_ignored():
    head = made(RandomClasses(0.1), ignore_index=52)
    x, labels = torch.zeros(40, D, dtype=torch.float64), torch.full((40,), 52)
    x[:3], labels[:3] = batch()[0].detach()[:3], torch.arange(3)
    assert torch.isfinite(head(x, labels))
    with pytest.raises(ValueError, match="labels holds -100"):
        head(x, labels.where(labels == 52, -100))


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("bias", [False, True])
def test_where_all_are_ignored_loss_and_gradients_are_zero(selector, bias):
    """torch gives NaN. The optimizers take it as a step whose gradients are 0."""
    for optimizer, dense in ((RowSGD, torch.optim.SGD), (RowAdamW, torch.optim.AdamW)):
        head = made(SELECTORS[selector](), bias=bias, ignore_index=-1)
        twin = copy.deepcopy(head)
        ours, theirs = optimizer(head.parameters(), lr=0.1), dense(twin.parameters(), lr=0.1)
        x, labels = batch()
        for step in range(3):
            loss = head(x, labels if step != 1 else torch.full_like(labels, -1))
            loss.backward()
            if step == 1:
                assert loss.item() == 0 and loss.dtype == torch.float64
                assert not x.grad.any() and not any(p.grad.to_dense().any() for p in head.parameters())
            for p, q in zip(head.parameters(), twin.parameters(), strict=True):
                q.grad = p.grad.to_dense()
            ours.step(), theirs.step(), ours.zero_grad(), theirs.zero_grad()
            x.grad = None
        for p, q in zip(head.state_dict().items(), twin.state_dict().items(), strict=True):
            if isinstance(p[1], torch.Tensor) and p[0] in ("weight", "bias"):
                torch.testing.assert_close(p[1], q[1], rtol=1e-7, atol=1e-9)
    assert torch.isnan(F.cross_entropy(torch.zeros(1, 3), torch.tensor([-1]), ignore_index=-1))


@pytest.mark.parametrize("ours, torchs", [(RowSGD, torch.optim.SGD), (RowAdamW, torch.optim.AdamW)])
@pytest.mark.parametrize("selector", SAMPLED)
def test_a_sparse_bias_moves_as_with_the_dense_optimizer(selector, ours, torchs):
    head = made(SAMPLED[selector](), bias=True)
    twin = torch.nn.Parameter(head.bias.detach().clone())
    options = {"lr": 0.1, "weight_decay": 0.05} | ({"momentum": 0.9} if ours is RowSGD else {})
    rows, dense = ours(head.parameters(), **options), torchs([twin], **options)
    for step in range(12):
        head(*batch(seed=step)).backward()
        twin.grad = head.bias.grad.to_dense()
        assert head.bias.grad.is_sparse
        for optimizer in (rows, dense):
            optimizer.step()
            optimizer.zero_grad()
    with unwatched():
        lagging = head.bias.detach().clone()
    x = batch()[0]
    logits = head.logits(x)
    tolerance = {"rtol": 1e-10, "atol": 1e-12} if ours is RowSGD else {"rtol": 1e-4, "atol": 1e-6}
    assert not torch.allclose(lagging, twin, rtol=1e-3)  # it did lag until it was read
    torch.testing.assert_close(head.bias.detach(), twin.detach(), **tolerance)
    torch.testing.assert_close(head.state_dict()["bias"], twin.detach(), **tolerance)
    torch.testing.assert_close(logits, 12 * F.normalize(x, dim=1) @ head.prototypes().T + head.bias)


def test_bias_is_in_everything_that_is_read():
    head = random_bias(made(NearestClasses(0.3, groups=2, far=False), bias=True))
    x, labels = batch()
    logits = 12 * F.normalize(x.detach(), dim=1) @ head.prototypes().T + head.bias.detach()
    classes = torch.tensor([7, 3, 7])
    torch.testing.assert_close(head.logits(x).detach(), logits)
    torch.testing.assert_close(head.logits(x, classes).detach(), logits[:, classes])
    values, ids = head.topk(x, 5)
    assert torch.equal(ids, logits.topk(5).indices)
    torch.testing.assert_close(values, logits.topk(5).values / 12)
    assert head.eval()(x, labels).item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-12)
    head.train()(x, labels)  # makes the index
    active, _ = active_sets(head, x, labels)
    found = head.diagnose(x, labels)
    masses = []
    for group in active:
        for sample in group.samples.tolist():
            mass = logits[sample].softmax(0)
            mass[labels[sample]] = 0
            masses.append((mass[group.classes].sum() / mass.sum()).item())
    assert found["captured_mass"] == pytest.approx(np.mean(masses), rel=1e-6)
    _, dx, _, _ = expected(head, F.normalize(x.detach(), dim=1), labels)
    leaf = F.normalize(x.detach(), dim=1).requires_grad_()
    (full,) = torch.autograd.grad(F.cross_entropy(head.logits(leaf), labels), leaf)
    assert found["gradient_error"] == pytest.approx(np.linalg.norm(dx - full.numpy()) / full.norm().item(), rel=1e-6)
    other = made(NearestClasses(0.3, groups=2), bias=True, seed=9)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.bias, head.bias)
