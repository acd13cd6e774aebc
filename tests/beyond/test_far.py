"""far.py: mean rows of lists that stand for the classes left out, against the reference and the full softmax."""

import copy

import numpy as np
import pytest
import torch
from small_heads import batch, made
from torch.nn import functional as F

from annsoftmax_ref import ArcFace, CosFace, CrossEntropy, DSoftmax, NearestClasses, SoftmaxHead, backend
from annsoftmax_ref import reference as ref
from annsoftmax_ref.beyond.far import far_classes

SCALE = 12.0


def clustered(n=400, d=32, clusters=8, spread=0.5, seed=0):
    """Unit rows [n, d] about so many centres, and the cluster of each."""
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(clusters, d, generator=generator, dtype=torch.float64), dim=1)
    lists = torch.arange(n) % clusters
    noise = spread * torch.randn(n, d, generator=generator, dtype=torch.float64) / d**0.5
    return F.normalize(centres[lists] + noise, dim=1), lists


def means_of(rows, lists):
    sizes = torch.bincount(lists)
    return rows.new_zeros(len(sizes), rows.shape[1]).index_add_(0, lists, rows) / sizes.unsqueeze(1), sizes


def test_offsets_equal_the_reference():
    rows, lists = clustered()
    means, sizes = means_of(rows, lists)
    classes = torch.stack([torch.arange(40), torch.arange(0, 320, 8)])  # the second: 40 of the 50 of list 0
    far = far_classes(classes, lists, sizes, means, SCALE)
    assert torch.equal(far.means, means)
    for own, active in zip(far.offsets, classes, strict=True):
        expected = ref.far_offsets(means.numpy(), sizes.numpy(), lists.numpy(), active.numpy(), SCALE)
        np.testing.assert_allclose(own.numpy(), expected)


def test_a_list_that_is_all_active_has_no_part_left():
    rows, lists = clustered(n=40)
    means, sizes = means_of(rows, lists)
    (offsets,) = far_classes((lists == 3).nonzero().T, lists, sizes, means, SCALE).offsets
    assert offsets[3] == -torch.inf and torch.isfinite(offsets[lists.unique() != 3]).all()


@pytest.mark.parametrize("spread, most", [(0.0, 1e-9), (0.3, 0.03), (1.0, 0.12)])
def test_the_partition_function_comes_out_nearly_right(spread, most):
    """Exactly for lists of equal rows; the better, the tighter a list is."""
    rows, lists = clustered(n=4000, spread=spread)
    means, sizes = means_of(rows, lists)
    x = F.normalize(torch.randn(16, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64), dim=1)
    active = torch.arange(0, 4000, 50)
    (offsets,) = far_classes(active.unsqueeze(0), lists, sizes, means, SCALE).offsets
    logits = SCALE * x @ rows.T
    inside = logits[:, active]
    estimate = torch.cat([inside, SCALE * x @ means.T + offsets], dim=1).logsumexp(dim=1)
    assert (estimate - logits.logsumexp(dim=1)).expm1().abs().mean() < most
    if spread:  # without them most of it is missing
        assert (inside.logsumexp(dim=1) - logits.logsumexp(dim=1)).expm1().max() < -0.5


@pytest.mark.parametrize("objective", [CrossEntropy, CosFace, ArcFace, DSoftmax])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("options", [{}, {"sparse": False}, {"class_weights": True}])
def test_loss_and_gradients_are_those_of_more_columns(objective, groups, options):
    x, labels = batch()
    if options.get("class_weights"):
        options = {"class_weights": torch.linspace(0.5, 2, 53)}
    results, rows = [], torch.randn(53, x.shape[1], generator=torch.Generator().manual_seed(1))
    for name, dtype in (("torch", torch.float64), ("auto", torch.float32)):
        head = SoftmaxHead(53, x.shape[1], NearestClasses(0.4, groups=groups), objective(SCALE), dtype=dtype, **options)
        with torch.no_grad():
            head.weight.copy_(rows)
        head.generator.manual_seed(2)  # the weights' draws differ by their type
        leaf = x.detach().float().to(dtype).requires_grad_()
        with backend.use(name):
            loss = head(leaf, labels)
            loss.backward()
        grad = head.weight.grad.to_dense() if head.weight.grad.is_sparse else head.weight.grad
        results.append((loss.double(), leaf.grad.double(), grad.double()))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(two, one, rtol=2e-4, atol=2e-5)


def test_by_hand_on_a_grouped_batch():
    head = made(NearestClasses(0.4, groups=2))
    x, labels = batch()
    loss = head(x, labels)
    unit, w = F.normalize(x.detach(), dim=1), head.prototypes()
    active = head.selector.select(unit, labels, head.weight, copy.deepcopy(head).generator)
    index, total = head.selector.index, 0.0
    means = index.means.double()
    for group in active:
        offsets = ref.far_offsets(
            means.numpy(), index.lists.sizes.numpy(), index.assignment.numpy(), group.classes.numpy(), SCALE
        )
        logits = torch.cat([SCALE * unit[group.samples] @ w[group.classes].T,
                            SCALE * unit[group.samples] @ means.T + torch.tensor(offsets)], dim=1)  # fmt: skip
        total += F.cross_entropy(logits, group.targets, reduction="sum")
    assert loss.item() == pytest.approx((total / len(x)).item(), rel=1e-7)  # mean rows are in float32


def test_with_all_classes_active_nothing_is_left_to_stand_for():
    x, labels = batch()
    head = made(NearestClasses(1.0, groups=3))
    assert head(x, labels).item() == pytest.approx(head.eval()(x, labels).item(), rel=1e-12)


def test_a_bias_leaves_the_far_columns_alone():
    x, labels = batch()
    losses = []
    for bias in (False, True):
        head = SoftmaxHead(53, x.shape[1], NearestClasses(0.4), CrossEntropy(SCALE), bias=bias, dtype=x.dtype)
        losses.append(head(x, labels).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_diagnose_counts_them():
    rows, _ = clustered(n=600, spread=1.2)
    labels = torch.arange(0, 600, 20)
    x = rows[labels] + 0.1 * torch.randn(30, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    looks = {}
    for far in (True, False):
        head = SoftmaxHead(600, 32, NearestClasses(0.1, groups=2, far=far), CrossEntropy(SCALE), dtype=torch.float64)
        with torch.no_grad():
            head.weight.copy_(rows)
        head.double()(x, labels)
        active = head.selector.select(F.normalize(x, dim=1), labels, head.weight, copy.deepcopy(head).generator)
        looks[far] = head.diagnose(x, labels)
        logits = (SCALE * F.normalize(x, dim=1) @ rows.T).scatter(1, labels.unsqueeze(1), -torch.inf)
        error = torch.empty(30, dtype=torch.float64)
        for g, group in enumerate(active):
            counted = logits[group.samples][:, group.classes]
            if far:
                more = SCALE * F.normalize(x[group.samples], dim=1) @ active.far.means.T + active.far.offsets[g]
                counted = torch.cat([counted, more], dim=1)
            error[group.samples] = (counted.logsumexp(dim=1) - logits[group.samples].logsumexp(dim=1)).expm1()
        assert looks[far]["z_error"] == pytest.approx(error.mean().item())
    assert looks[False]["z_error"] == pytest.approx(looks[False]["captured_mass"] - 1)
    assert looks[True]["captured_mass"] == pytest.approx(looks[False]["captured_mass"])
    assert looks[True]["gradient_error"] < looks[False]["gradient_error"]


def test_mean_rows_follow_the_weights_a_slice_at_a_time():
    x, labels = batch()
    head = made(NearestClasses(0.4, nlist=5, refresh_steps=4))
    head(x, labels)
    before = head.selector.index.means.clone()
    with torch.no_grad():
        head.weight.neg_()
    for _ in range(40):  # the weights stay where they are
        head.selector.prepare(head.weight, head.generator)
    exact, _ = means_of(F.normalize(head.weight.detach(), dim=1), head.selector.index.assignment)
    kept = head.selector.index.means
    # Not the mean itself: what was looked at last counts most.
    assert (kept - exact).norm() < 0.2 * exact.norm() < 0.5 * (before - exact).norm()
    assert (kept.norm(dim=1) < 1).all()


def test_a_head_saved_before_there_were_mean_rows_is_loaded():
    x, labels = batch()
    head, other = made(NearestClasses(0.4)), made(NearestClasses(0.4))
    head(x, labels)
    saved = head.state_dict()
    del saved["selector.index.means"]
    other.load_state_dict(saved)
    assert torch.equal(other.selector.index.means, head.selector.index.centroids)
    other(x, labels)
