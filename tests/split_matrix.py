"""Run under torchrun by ``test_processes``: what threads as ranks cannot show, and the matrix once more over gloo.

Prints a line for each check that held; a check that does not hold ends it with an error.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from sharded import DIM, alone, make_case, make_head
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler
from torch.nn.parallel import DistributedDataParallel

from annsoftmax_ref import (
    ArcFace,
    CosFace,
    CrossEntropy,
    DSoftmax,
    NearestClasses,
    RandomClasses,
    RowAdamW,
    RowSGD,
    SoftmaxHead,
    clip_grad_norm_,
)

FEATURES = 5


def check_exact(rank: int, ranks: int) -> None:
    """Loss and gradients of objectives over gloo, even, ragged and empty batches, processes without classes."""
    for num_classes in (1, 3, 10, 1003):
        for sizes in ([3] * ranks, list(range(1, ranks + 1)), [5] + [0] * (ranks - 1)):
            case = make_case(num_classes, sum(sizes))
            for objective in (CrossEntropy, lambda: CrossEntropy(label_smoothing=0.1), CosFace, ArcFace, DSoftmax):
                expected = alone(case, objective=objective)
                head = make_head(case, objective, group=dist.group.WORLD)
                mine = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
                x = case.x[mine].clone().requires_grad_()
                loss = head(x, case.y[mine])
                loss.backward()
                assert abs(loss.item() - expected.loss) < 1e-10
                assert x.numel() == 0 or (x.grad / ranks - expected.dx[mine]).abs().max() < 1e-10
                if head.shards.size:
                    rows = expected.dweight[head.shards.first : head.shards.last]
                    assert (head.weight.grad - rows).abs().max() < 1e-10


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, DIM)).double()

    def forward(self, features):
        return self.layers(features)


def trained(wrap, rank: int, ranks: int, group, averaged: bool = True, clip: float | None = None) -> torch.Tensor:
    """The backbone's weights and the head's loss after five steps on the same global batches."""
    model = wrap(Backbone())
    case = make_case(30, 12)
    head = make_head(case, CosFace, group=group, averaged=averaged)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = RowAdamW(head.parameters(), lr=0.01)
    features = torch.randn(5, 12, FEATURES, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for step in range(5):
        mine = slice(rank, None, ranks) if group is not None else slice(None)
        loss = head(model(features[step][mine]), case.y[mine])
        loss.backward()
        if clip is not None:
            clip_grad_norm_(model.parameters(), head, clip)
        for part in (optimizer, rows):
            part.step()
            part.zero_grad()
    weights = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    return torch.cat([w.detach().flatten() for w in weights] + [loss.detach().view(1)])


def check_backbones(rank: int, ranks: int) -> None:
    """Under DDP and FSDP2, with and without their averaging, and with clipping, the backbone is that of one process."""
    group = dist.group.WORLD
    for clip in (None, 0.5):
        expected = trained(lambda model: model, 0, 1, None, clip=clip)
        for wrap, averaged in ((DistributedDataParallel, True), (fsdp, True), (summing_fsdp, False)):
            found = trained(wrap, rank, ranks, group, averaged, clip)
            assert (found - expected).abs().max() < 1e-10, (wrap, clip, (found - expected).abs().max())


def fsdp(model: nn.Module) -> nn.Module:
    fully_shard(model)
    return model


def summing_fsdp(model: nn.Module) -> nn.Module:
    fully_shard(model)
    model.set_gradient_divide_factor(1.0)
    return model


def check_ddp_is_refused(rank: int, ranks: int) -> None:
    """Before it has written to anything."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = Backbone()
            self.head = SoftmaxHead(31, DIM, objective=CosFace(), process_group=dist.group.WORLD)

    both = Both()
    before = both.head.weight.detach().clone()
    for module in (both, both.head):
        try:
            DistributedDataParallel(module)
        except ValueError as error:
            assert str(error).startswith("head is inside DistributedDataParallel"), error
        else:
            raise AssertionError("DistributedDataParallel took a split head")
    assert torch.equal(before, both.head.weight.detach())
    DistributedDataParallel(both.backbone)


def check_faults_reach_all(rank: int, ranks: int) -> None:
    """Within five seconds, in one sentence that names the process; and all go on together."""
    case = make_case(10, 3 * ranks)
    head = make_head(case, CosFace, group=dist.group.WORLD)
    mine = slice(rank, None, ranks)
    for culprit in range(ranks):
        for fault in ("NaN", "label"):
            x, y = case.x[mine].clone(), case.y[mine].clone()
            if rank == culprit and fault == "NaN":
                x[0, 0] = torch.nan
            elif rank == culprit:
                y[0] = 10
            start = time.monotonic()
            try:
                head(x, y)
            except ValueError as error:
                assert str(error).startswith(f"process {culprit} of {ranks}, batch "), error
                assert time.monotonic() - start < 5
            else:
                raise AssertionError(f"{fault} on process {culprit} was taken by process {rank}")
            head(case.x[mine], case.y[mine])


def check_scaler(rank: int, ranks: int) -> None:
    """An overflow on one process skips the step on all, sparse gradients included, and scales stay equal."""
    case = make_case(40, 4 * ranks)
    head = SoftmaxHead(40, DIM, RandomClasses(0.9), CosFace(), process_group=dist.group.WORLD)
    optimizer, scaler = RowSGD(head.parameters(), lr=0.1), ShardedGradScaler(device="cpu", init_scale=1024.0)
    x, y = case.x[rank::ranks].half(), case.y[rank::ranks]
    for step in range(4):
        before, batch = head.weight.detach().clone(), x.clone()
        if step == 1 and rank == ranks - 1:
            batch[0, 0] = torch.inf
        scaler.scale(head(batch.requires_grad_(), y)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        assert torch.equal(before, head.weight.detach()) == (step == 1), step
        assert scaler.get_scale() == (1024.0 if step == 0 else 512.0)


def check_selection(rank: int, ranks: int) -> None:
    """ANN Softmax trains over gloo, on all processes the same loss."""
    case = make_case(500, 16)
    head = SoftmaxHead(500, DIM, NearestClasses(0.2), CosFace(), process_group=dist.group.WORLD)
    optimizer = RowSGD(head.parameters(), lr=0.2, momentum=0.9)
    losses = []
    for _ in range(10):
        loss = head(case.x[rank::ranks].float(), case.y[rank::ranks])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    everybody = [None] * ranks
    dist.all_gather_object(everybody, losses)
    assert all(one == losses for one in everybody)
    assert losses[-1] < losses[0] - 3


CHECKS = (
    check_exact,
    check_backbones,
    check_ddp_is_refused,
    check_faults_reach_all,
    check_scaler,
    check_selection,
)

if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    here, count = dist.get_rank(), dist.get_world_size()
    for check in CHECKS:
        check(here, count)
        if here == 0:
            print("held:", check.__name__, flush=True)
    dist.barrier()
    os._exit(0)  # at an ordinary end threads of torch's that still run abort a process now and then
