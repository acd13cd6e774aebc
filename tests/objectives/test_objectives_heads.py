"""The heads' options: every objective on active sets, bias, label smoothing, class weights and ignore_index."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from annsoftmax_ref import (
    AllClasses,
    CrossEntropy,
    ForestClasses,
    LabelGraphClasses,
    LSHClasses,
    NearestClasses,
    RandomClasses,
    RowAdamW,
    RowSGD,
    SoftmaxHead,
    backend,
    make_head,
    make_objective,
)
from annsoftmax_ref import reference as ref
from annsoftmax_ref.objectives import OBJECTIVES
from kernels_inline import build

N, D, B = 53, 10, 9
MARGINS = {"cosface": 0.2, "arcface": 0.3, "arcface_insightface": 0.3, "combined": (1.2, 0.2, 0.1)}
SELECTORS = {
    "all": AllClasses,
    "random": lambda: RandomClasses(0.4),
    "one group": lambda: NearestClasses(0.4, groups=1),
    "groups": lambda: NearestClasses(0.4, groups=3),
}
SAMPLED = {name: make for name, make in SELECTORS.items() if name != "all"}


def made(selector, objective="cross_entropy", **options):
    if isinstance(objective, str):
        objective = make_objective(objective, 12.0, MARGINS.get(objective))
    return SoftmaxHead(N, D, selector, objective, dtype=torch.float64, **options)


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, D, generator=generator, dtype=torch.float64, requires_grad=True)
    return x, torch.randint(N, (B,), generator=generator)


def random_bias(head):
    with torch.no_grad():
        head.bias.normal_(generator=torch.Generator().manual_seed(3))
    return head


def active_sets(head, x, labels):
    """The active sets that the head's next call will use, and the generator as it will be then."""
    copied = copy.deepcopy(head)
    copied.selector.prepare(copied.weight, copied.generator)
    return copied.selector.select(F.normalize(x.detach(), dim=1), labels, copied.weight, copied.generator), copied


def expected(head, x, labels, weights=None):
    """Loss, dx, dweight and dbias by the float64 reference, group by group, over the head's next active sets."""
    active, copied = active_sets(head, x, labels)
    x, w = x.detach().numpy(), head.weight.detach().numpy()
    bias = None if head.bias is None else head.bias.detach().numpy()
    loss, dx, dw, dbias = 0.0, np.zeros_like(x), np.zeros_like(w), np.zeros(N)
    name = next(name for name, kind in OBJECTIVES.items() if type(head.objective) is kind)
    for group in active:
        samples, classes, targets = group.samples.numpy(), group.classes.numpy(), group.targets.numpy()
        part = np.ones(B) / B if weights is None else weights / weights.sum()
        options = {}
        if name in ("dsoftmax_b", "dsoftmax_k"):
            total = len(samples) if name == "dsoftmax_b" else len(classes)
            options = {"chosen": head.objective.draw(total, copied.generator).numpy()}
        if bias is None:
            margin = None if name == "cross_entropy" else MARGINS.get(name, head.objective.margin)
            objective = ref.make_objective(name, 12.0, margin, **options)
        else:
            smoothed = partial(ref.smoothed_cross_entropy, scale=12.0, bias=bias[classes])
            z = ref.cosine_logits(x[samples], w[classes])
            for i, row in enumerate(samples):
                dbias[classes] += smoothed(z[i : i + 1], targets[i : i + 1])[2] * part[row]
            objective = lambda z, target, f=smoothed: f(z, target)[:2]  # noqa: E731
        if weights is not None:
            objective = ref.weighted(objective, weights[samples])
        own, dx_group, dw_rows = ref.active_loss(x[samples], w, targets, classes, objective)
        loss += own * part[samples].sum()
        dx[samples] = dx_group * part[samples].sum()
        dw[classes] += dw_rows * part[samples].sum()
    return loss, dx, dw, dbias


def check(head, x, labels, weights=None):
    loss, dx, dw, dbias = expected(head, x, labels, weights)
    got = head(x, labels)
    got.backward()
    assert got.item() == pytest.approx(loss, rel=1e-10, abs=1e-10)
    np.testing.assert_allclose(x.grad.numpy(), dx, rtol=1e-10, atol=1e-10)
    for parameter, slope in ((head.weight, dw), (head.bias, dbias)):
        if parameter is not None:
            assert parameter.grad.is_sparse is not isinstance(head.selector, AllClasses)
            np.testing.assert_allclose(parameter.grad.to_dense().numpy(), slope, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_equals_the_reference_on_the_active_sets(name, selector):
    check(made(SELECTORS[selector](), name), *batch())


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "dsoftmax_b"])
def test_class_weights_equal_the_reference(name, selector):
    class_weights = torch.linspace(0, 3, N, dtype=torch.float64)
    x, labels = batch()
    check(made(SELECTORS[selector](), name, class_weights=class_weights), x, labels, class_weights[labels].numpy())


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


def options_of(name):
    found = [{}, {"class_weights": torch.linspace(0, 3, 17, dtype=torch.float64)}, {"ignore_index": 4}]
    return [*found, {"bias": True}] if name == "cross_entropy" else found


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "arcface_insightface"])
def test_gradcheck_of_every_objective_with_every_option(name, groups):
    """By central differences in one direction of x, weight and bias together: their gradients are sparse."""
    for options in options_of(name):
        head = SoftmaxHead(
            17, 4, NearestClasses(0.4, groups=groups), make_objective(name, 6.0, MARGINS.get(name)), **options
        ).double()
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
        labels = torch.tensor([3, 4, 4, 16, 0, 9])
        kept = labels != head.ignore_index if head.ignore_index is not None else labels >= 0
        active, _ = active_sets_of_kept(head, x[kept], labels[kept])

        def loss(x, head=head, active=active, kept=kept):
            head.generator.manual_seed(8)
            return head.loss_over(F.normalize(x[kept], dim=1), active)

        parts = [x, *head.parameters()]
        loss(x).backward()
        moves = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parts]
        slope = sum((p.grad.to_dense() * m).sum().item() for p, m in zip(parts, moves, strict=True))
        values = []
        with torch.no_grad():
            for step in (1e-6, -2e-6):
                for p, m in zip(parts, moves, strict=True):
                    p.add_(m, alpha=step)
                values.append(loss(x).item())
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-6, abs=1e-7), options


def active_sets_of_kept(head, x, labels):
    head.selector.prepare(head.weight, head.generator)
    return head.selector.select(F.normalize(x.detach(), dim=1), labels, head.weight, head.generator), head


@pytest.mark.skipif(not build.available(), reason=str(build.why_not()))
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", ["cross_entropy", "cosface", "arcface", "dsoftmax"])
def test_class_weights_in_the_fused_kernel(name, half):
    """Float32: the kernel's weighted loss and gradients are those of plain torch."""
    grads = []
    for use in ("cpp", "torch"):
        head = SoftmaxHead(200, 16, AllClasses(), make_objective(name), class_weights=torch.linspace(0, 3, 200))
        x = torch.randn(32, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
        with backend.use(use), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = head(x, torch.arange(32) * 3)
            loss.backward()
        grads.append((loss.detach(), x.grad, head.weight.grad))
    for ours, plain in zip(*grads, strict=True):
        assert (ours - plain).norm() <= (2e-2 if half else 1e-5) * plain.norm()


@pytest.mark.parametrize("selector", SELECTORS)
def test_where_all_weights_are_zero_loss_and_gradients_are_zero(selector):
    head = made(SELECTORS[selector](), "cosface", class_weights=torch.arange(N).clamp_max(1).double())
    x, _ = batch()
    loss = head(x, torch.zeros(B, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0 and not x.grad.any() and not head.weight.grad.to_dense().any()


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("selector", SELECTORS)
def test_autocast_changes_the_loss_by_rounding_only(name, selector):
    """Float32 heads with class weights in float64: the loss stays in float32."""
    losses = []
    for half in (True, False):
        weights = torch.linspace(0, 3, N, dtype=torch.float64)
        head = SoftmaxHead(N, D, SELECTORS[selector](), make_objective(name), class_weights=weights)
        x, labels = batch()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = head(x.float(), labels)
        loss.backward()
        assert loss.dtype == torch.float32 and torch.isfinite(x.grad).all()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=3e-2)


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
    lagging = head.bias.detach().clone()
    x = batch()[0]
    logits = head.logits(x)
    tolerance = {"rtol": 1e-10, "atol": 1e-12} if ours is RowSGD else {"rtol": 1e-4, "atol": 1e-6}
    assert not torch.allclose(lagging, twin, rtol=1e-3)  # it did lag until it was read
    torch.testing.assert_close(head.bias.detach(), twin.detach(), **tolerance)
    torch.testing.assert_close(head.state_dict()["bias"], twin.detach(), **tolerance)
    torch.testing.assert_close(logits, 12 * F.normalize(x, dim=1) @ head.prototypes().T + head.bias)


def test_bias_is_in_everything_that_is_read():
    head = random_bias(made(NearestClasses(0.3, groups=2), bias=True))
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


@pytest.mark.parametrize("name", ["dsoftmax_b", "dsoftmax_k"])
@pytest.mark.parametrize("selector", ["all", "groups"])
def test_what_an_objective_draws_goes_on_after_a_checkpoint(name, selector):
    head = made(SELECTORS[selector](), name)
    x, labels = batch()
    first = [head(x, labels).item() for _ in range(3)]
    assert len(set(first)) > 1
    resumed = made(SELECTORS[selector](), name, seed=99)
    resumed.load_state_dict(copy.deepcopy(head.state_dict()))
    assert [head(x, labels).item() for _ in range(3)] == [resumed(x, labels).item() for _ in range(3)]
    exact = made(AllClasses(), make_objective("dsoftmax", 12.0)).eval()
    assert head.eval()(x, labels).item() == pytest.approx(exact(x, labels).item(), rel=1e-12)


SMOOTH = CrossEntropy(label_smoothing=0.1)


@pytest.mark.parametrize(
    "build, error, words",
    [
        *[
            (lambda s=s: made(s, SMOOTH), ValueError, rf"{type(s).__name__} leaves classes out")
            for s in (RandomClasses(1.0), NearestClasses(), LSHClasses(), ForestClasses(), LabelGraphClasses())
        ],
        (lambda: made(None, "cosface", bias=True), ValueError, "bias is True; CosFace takes none"),
        (lambda: make_head("ann", 40, 4, "dsoftmax_k", bias=True), ValueError, "DSoftmaxK takes none"),
        (lambda: made(None, SMOOTH, class_weights=torch.ones(N)), ValueError, "take one of the two"),
        (lambda: made(None, class_weights=[1.0] * N), TypeError, "class_weights is of type list"),
        (lambda: made(None, class_weights=torch.ones(N).long()), TypeError, "class_weights is of type torch.int64"),
        (lambda: made(None, class_weights=torch.ones(N - 1)), ValueError, r"class_weights has shape \[52\]"),
        (lambda: made(None, class_weights=-torch.ones(N)), ValueError, "class_weights holds a number below 0"),
        (lambda: made(None, class_weights=torch.zeros(N)), ValueError, "only zeros"),
        (lambda: made(None, ignore_index=-1.0), TypeError, "ignore_index is -1.0"),
    ],
)
def test_what_cannot_be_honoured_is_refused_when_the_head_is_made(build, error, words):
    with pytest.raises(error, match=words) as caught:
        build()
    assert "\n" not in str(caught.value)
