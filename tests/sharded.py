"""What tests of split classes share: a batch with its weights, and what a head makes of it on so many processes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from ranks import on_ranks
from torch import Tensor

from annsoftmax_ref import AllClasses, SoftmaxHead

DIM = 6


class Case(NamedTuple):
    """x [B, d], y [B] int64, weight [N, d], bias [N], class_weights [N]; float64."""

    x: Tensor
    y: Tensor
    weight: Tensor
    bias: Tensor
    class_weights: Tensor


class Outcome(NamedTuple):
    """The loss, and the gradients of x [B, d], weight [N, d] and bias [N] (None without one), all dense."""

    loss: float
    dx: Tensor
    dweight: Tensor
    dbias: Tensor | None


def make_case(num_classes: int, batch: int, seed: int = 0) -> Case:
    g = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    y = torch.randint(num_classes, (batch,), generator=g)
    return Case(
        normal(batch, DIM),
        y,
        normal(num_classes, DIM),
        normal(num_classes),
        torch.rand(num_classes, generator=g, dtype=torch.float64) + 0.1,
    )


def make_head(case: Case, objective, selector=AllClasses, group=None, bias=False, weighted=False, **options):
    """A head with the case's weights, in float64, whose objective draws from seed 5."""
    head = SoftmaxHead(
        len(case.weight),
        DIM,
        selector(),
        objective(),
        bias=bias,
        class_weights=case.class_weights if weighted else None,
        dtype=torch.float64,
        process_group=group,
        **options,
    )
    here = slice(None) if group is None else slice(head.shards.first, head.shards.last)
    with torch.no_grad():
        head.weight.copy_(case.weight[here])
        if bias:
            head.bias.copy_(case.bias[here])
    (head.generator if group is None else head.common).manual_seed(5)
    return head


def alone(case: Case, train: bool = True, **options) -> Outcome:
    """Of one head in one process, on the whole batch."""
    head = make_head(case, **options).train(train)
    x = case.x.clone().requires_grad_()
    loss = head(x, case.y)
    loss.backward()
    return Outcome(loss.item(), x.grad, *(None if p is None else _dense(p.grad) for p in (head.weight, head.bias)))


def split(case: Case, sizes: list[int], train: bool = True, **options) -> Outcome:
    """Of one head over len(sizes) processes, of which each has so many of the samples."""

    def of_rank(rank: int, group) -> tuple:
        head = make_head(case, group=group, **options).train(train)
        first = sum(sizes[:rank])
        mine = slice(first, first + sizes[rank])
        x = case.x[mine].clone().requires_grad_()
        loss = head(x, case.y[mine])
        loss.backward()
        grads = [None if p is None else _dense(p.grad, p) for p in (head.weight, head.bias)]
        return loss.item(), x.grad / len(sizes), *grads

    losses, *grads = zip(*on_ranks(len(sizes), of_rank), strict=True)
    assert len(set(losses)) == 1, losses  # bit for bit
    return Outcome(losses[0], *(None if part[0] is None else torch.cat(part) for part in grads))


def assert_equal(found: Outcome, expected: Outcome, tolerance: float = 1e-10) -> None:
    assert abs(found.loss - expected.loss) < tolerance
    for name in ("dx", "dweight", "dbias"):
        a, b = getattr(found, name), getattr(expected, name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert (a - b).abs().max() < tolerance, name


def _dense(grad: Tensor | None, like: Tensor | None = None) -> Tensor:
    if grad is None:  # of a process without classes
        return torch.zeros_like(like.detach())
    return grad.to_dense() if grad.is_sparse else grad
