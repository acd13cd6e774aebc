"""Every objective in a head: on active sets, with class weights, in the fused kernel, under autocast, and refusals."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small_heads import MARGINS, SELECTORS, D, N, batch, check, made

from annsoftmax_ref import (
    AllClasses,
    CrossEntropy,
    ForestClasses,
    LabelGraphClasses,
    LSHClasses,
    NearestClasses,
    RandomClasses,
    SoftmaxHead,
    backend,
    make_head,
    make_objective,
)
from annsoftmax_ref.objectives import OBJECTIVES
from kernels_inline import build


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
