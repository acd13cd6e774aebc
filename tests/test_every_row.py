"""every_row.py: in parts as at once, and no part of the size of the weight."""

import pytest
import torch
import torch.nn.functional as F

from annsoftmax_ref import AllClasses, CrossEntropy, RowSGD, SoftmaxHead, every_row
from annsoftmax_ref.every_row import all_cosines, nearest_of_all, random_directions
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


def test_topk_of_many_classes_makes_nothing_of_the_weight_s_size(generator):
    head = SoftmaxHead(400_000, 128, AllClasses(), CrossEntropy(10.0)).eval()  # 195 MB
    x = torch.randn(4, 128, generator=generator)
    head.topk(x, 5)
    with memory.peak_memory(torch.device("cpu")) as peak:
        head.topk(x, 5)
    assert peak["peak_mb"] is None or peak["peak_mb"] < 150
