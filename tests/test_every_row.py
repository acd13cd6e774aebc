"""every_row.py: in parts as at once, and no part of the size of the weight."""

import pytest
import torch
import torch.nn.functional as F
from allocations import most_allocated

from annsoftmax_ref import (
    AllClasses,
    ArcFace,
    CombinedMargin,
    CosFace,
    CrossEntropy,
    DSoftmax,
    DSoftmaxK,
    InsightFaceArcFace,
    RowSGD,
    SoftmaxHead,
    every_row,
)
from annsoftmax_ref.every_row import all_cosines, nearest_of_all, own_and_others, random_directions
from annsoftmax_ref.machine import memory


@pytest.fixture(params=[1 << 7, 1 << 10, 1 << 24])
def part(request, monkeypatch):
    monkeypatch.setattr(every_row, "PART", request.param)


@pytest.mark.parametrize("rows, dim", [(1000, 33), (49, 3), (47, 1), (1, 5), (640, 128)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_directions_are_those_that_are_drawn_at_once(part, rows, dim, dtype):
    drawn = torch.randn(rows, dim, generator=torch.Generator().manual_seed(3), dtype=dtype)
    ours = random_directions(rows, dim, torch.Generator().manual_seed(3), dtype)
    assert torch.equal(ours, F.normalize(drawn, dim=1))


def made(generator, rows=333, dim=20, batch=7):
    weight = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    return F.normalize(torch.randn(batch, dim, generator=generator, dtype=torch.float64), dim=1), weight


def test_cosines_are_the_same_with_a_gradient_and_without(part, generator):
    x, weight = made(generator)
    with torch.no_grad():
        ours = all_cosines(x, weight)
    torch.testing.assert_close(ours, all_cosines(x.requires_grad_(), weight).detach(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("k", [1, 30, 333])
def test_nearest_are_those_of_all_cosines(part, k, generator):
    x, weight = made(generator)
    for shifts in (None, torch.randn(333, generator=generator, dtype=torch.float64)):
        scores = x @ F.normalize(weight, dim=1).T + (0 if shifts is None else shifts)
        values, classes = nearest_of_all(x, weight, k, shifts)
        expected = scores.topk(k, dim=1)
        torch.testing.assert_close(values, expected.values, rtol=0, atol=1e-14)
        assert torch.equal(classes, expected.indices)


def test_rows_that_lag_are_brought_up_to_date(monkeypatch, generator):
    monkeypatch.setattr(every_row, "PART", 1 << 7)
    head = SoftmaxHead(100, 8, AllClasses(), CrossEntropy(10.0))
    optimizer = RowSGD(head.parameters(), lr=0.5, momentum=0.9)
    ids, x = torch.tensor([[3, 50]]), F.normalize(torch.randn(4, 8, generator=generator), dim=1)
    for _ in range(2):  # rows 3 and 50 move, and go on by their momentum
        head.weight.grad = torch.sparse_coo_tensor(ids, torch.ones(2, 8), head.weight.shape, check_invariants=False)
        optimizer.step()
        ids = torch.tensor([[7, 8]])
    values, classes = head.topk(x, 5)
    scores = F.normalize(x, dim=1) @ head.prototypes().T
    torch.testing.assert_close(values, scores.topk(5, dim=1).values)
    assert torch.equal(classes, scores.topk(5, dim=1).indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_topk_of_many_classes_makes_nothing_of_the_weight_s_size(dtype, generator):
    """In float32 all rows are 195 MB, which a copy in float32 of rows in 16 or 8 bits would be, too."""
    head = SoftmaxHead(400_000, 128, AllClasses(), CrossEntropy(10.0), dtype=dtype).eval()
    x = torch.randn(4, 128, generator=generator)
    head.topk(x, 5)
    with memory.peak_memory(torch.device("cpu")) as peak:
        head.topk(x, 5)
    assert peak["peak_mb"] is None or peak["peak_mb"] < 150


OBJECTIVES = [
    CrossEntropy(10.0),
    CosFace(10.0, 0.2),
    ArcFace(10.0, 0.3),
    InsightFaceArcFace(10.0, 0.3),
    CombinedMargin(10.0, 1.1, 0.1, 0.1),
    DSoftmax(10.0, 0.8),
]


def loss_and_gradients(objective, bias, weights, training, half, monkeypatch, part):
    monkeypatch.setattr(every_row, "PART", part)
    given = {"class_weights": torch.rand(333, generator=torch.Generator().manual_seed(1))} if weights else {}
    head = SoftmaxHead(333, 20, AllClasses(), objective, bias=bias, **given)
    if bias:
        with torch.no_grad():
            head.bias.copy_(torch.randn(333, generator=torch.Generator().manual_seed(2)))
    head.train(training)
    x = torch.randn(9, 20, generator=torch.Generator().manual_seed(3)).requires_grad_()
    labels = torch.arange(0, 333, 37)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = head(x, labels)
    loss.backward()
    return [loss.detach(), x.grad, head.weight.grad, *([head.bias.grad] if bias else [])]


@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_a_loss_over_all_classes_in_parts_is_that_at_once(objective, training, half, monkeypatch):
    for bias, weights in ((objective.takes_bias, True), (False, False)):
        made = (objective, bias, weights, training, half, monkeypatch)
        ours, whole = loss_and_gradients(*made, 1 << 10), loss_and_gradients(*made, 1 << 24)
        for a, b in zip(ours, whole, strict=True):
            size = float(b.abs().max())
            torch.testing.assert_close(a, b, rtol=0, atol=(0.02 if half else 2e-6) * size)


def test_gradients_of_own_and_others_by_differences(monkeypatch, generator):
    monkeypatch.setattr(every_row, "PART", 1 << 7)
    x, weight = made(generator, rows=50, dim=6, batch=4)
    labels, bias = torch.tensor([0, 17, 49, 17]), torch.randn(50, generator=generator, dtype=torch.float64)
    inputs = (x.requires_grad_(), weight.requires_grad_(), labels, 3.0, bias.requires_grad_())
    assert torch.autograd.gradcheck(own_and_others, inputs)


class Own(CosFace):
    def forward(self, cosine, target, offset=None):
        return super().forward(cosine, target, offset) + cosine.mean(dim=1)


def test_an_objective_of_another_form_is_given_all_cosines(monkeypatch, generator):
    assert CosFace.others_as_one and not Own.others_as_one and not DSoftmaxK.others_as_one
    ours, whole = (
        loss_and_gradients(Own(10.0), False, False, True, False, monkeypatch, part) for part in (1 << 10, 1 << 24)
    )
    assert all(torch.equal(*pair) for pair in zip(ours, whole, strict=True))


def test_neither_loss_nor_evaluation_makes_a_second_weight(monkeypatch):
    """In bfloat16, whose unit rows in float32 would be twice as large as it is."""
    monkeypatch.setattr(every_row, "PART", 1 << 20)
    rows, dim = 1 << 17, 128
    head = SoftmaxHead(rows, dim, AllClasses(), CosFace(), dtype=torch.bfloat16).eval()
    x, labels = torch.randn(8, dim), torch.arange(8)
    with torch.no_grad():
        assert most_allocated(lambda: head(x, labels)) < head.weight.nbytes / 2
