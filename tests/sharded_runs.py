"""Small runs whose head is split over processes, to be saved and gone on with."""

from __future__ import annotations

import os
import signal
import time

import torch
import torch.distributed as dist
from torch import nn

from annsoftmax_ref import (
    AllClasses,
    CosFace,
    CrossEntropy,
    ForestClasses,
    LSHClasses,
    NearestClasses,
    RandomClasses,
    RowAdamW,
    RowSGD,
    SoftmaxHead,
)
from annsoftmax_ref.training.sharded import Checkpoints, TrainingState, tensors
from annsoftmax_ref.training.sharded.together import Together

SELECTORS = {
    "all": lambda rate: AllClasses(),
    "random": RandomClasses,
    "nearest": lambda rate: NearestClasses(rate, nlist=1, nprobe=1, refresh_steps=2),
    "lsh": lambda rate: LSHClasses(rate, bits=2, tables=3, rebuild_steps=2),
    "forest": ForestClasses,
}
OPTIMIZERS = {
    "sgd": lambda p: RowSGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3, nesterov=True),
    "int8": lambda p: RowSGD(p, lr=0.1, momentum=0.9, momentum_dtype=torch.int8, seed=3),
    "plain": lambda p: RowSGD(p, lr=0.1),
    "adamw": lambda p: RowAdamW(p, lr=0.01),
}
WIDTH, FEATURES = 16, 8


def new_run(
    num_classes=10, group=None, selector="nearest", optimizer="sgd", dtype=torch.float32, bias=True, seed=0, **settings
) -> TrainingState:
    """The same for every process, but for the rows that are its own."""
    generator = torch.Generator().manual_seed(7)
    backbone = nn.Linear(FEATURES, WIDTH)
    with torch.no_grad():  # not by the global generator, which processes that are threads share
        backbone.weight.copy_(torch.randn(WIDTH, FEATURES, generator=generator))
        backbone.bias.zero_()
    head = SoftmaxHead(
        num_classes,
        WIDTH,
        SELECTORS[selector](1.0 if num_classes < 40 else 0.5),  # few have room for every batch only if all are active
        CrossEntropy(scale=8.0) if bias else CosFace(scale=8.0),
        bias=bias,
        class_weights=torch.linspace(0.5, 1.5, num_classes),
        seed=seed,
        dtype=dtype,
        process_group=group,
    )
    optimizers = {
        "head": OPTIMIZERS[optimizer](head.parameters()),
        "backbone": torch.optim.AdamW(backbone.parameters(), lr=0.01),
    }
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizers["head"], lambda step: 1 / (1 + 0.1 * step))
    return TrainingState(backbone, head, optimizers, schedule, {"lr": 0.1, "sizes": [4, 2], **settings})


def train(run: TrainingState, first: int, last: int, rank: int = 0) -> list[float]:
    """Steps first .. last - 1, each with a batch of this process."""
    losses, shards = [], run.head.shards
    for step in range(first, last):
        generator = torch.Generator().manual_seed(1000 * step + rank)
        inputs = torch.randn(4, FEATURES, generator=generator)
        labels = torch.randint(run.head.num_classes, (4,), generator=generator)
        for optimizer in run.optimizers.values():
            optimizer.zero_grad()
        loss = run.head(run.model(inputs), labels)
        loss.backward()
        if shards is not None:  # as DistributedDataParallel averages
            for parameter in run.model.parameters():
                parameter.grad = shards.total(parameter.grad, "backbone") / shards.ranks
        for optimizer in run.optimizers.values():
            optimizer.step()
        run.scheduler.step()
        losses.append(loss.item())
    return losses


def all_of(run: TrainingState, group=None) -> dict:
    """All that a checkpoint would hold, as a copy."""
    run.bring_up_to_date()
    return {name: value.clone() for name, value in run.tensors(Together(group)).items()} | {"numbers": run.numbers()}


def differences(one: dict, other: dict) -> list[str]:
    return [
        name
        for name in one.keys() | other.keys()
        if name not in one
        or name not in other
        or not (torch.equal(one[name], other[name]) if name != "numbers" else one[name] == other[name])
    ]


def raw_rows(run: TrainingState) -> dict:
    """What is kept of the rows, as it is: asking for the head's state would write its codes anew."""
    index = getattr(run.head.selector, "index", None)
    buffers = {} if index is None else {"codes": index.codes.clone(), "written": index.written.clone()}
    return {f"rows/head.selector.index.{name}": value for name, value in buffers.items()}


def joined(parts: list[dict]) -> dict:
    """What all processes have, rows joined in their order, without what is one's own."""
    names = dict.fromkeys(name for part in parts for name in part if not name.startswith("own/"))
    found = {name: [part[name] for part in parts if name in part] for name in names}
    return {name: torch.cat(values) if name.startswith("rows/") else values[0] for name, values in found.items()}


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def one_of_two(rank, folder, kill, wait, said) -> None:
    """Saves step 3; then process ``kill`` dies in the middle of saving step 4, and the other says what became of it."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    run = new_run(group=dist.group.WORLD)
    train(run, 0, 3, rank)
    checkpoints = Checkpoints(folder / "run", dist.group.WORLD)
    checkpoints.save(3, run, {"step": 3}, wait=wait)
    train(run, 3, 4, rank)  # while it is saved
    checkpoints.load(run)
    train(run, 3, 4, rank)
    if rank == kill:
        tensors._Writer.write_data = die
    start = time.monotonic()
    try:
        checkpoints.save(4, run, {"step": 4}, wait=wait)
        checkpoints.wait()
    except RuntimeError as error:
        said.put((time.monotonic() - start, str(error)))
    os._exit(0)  # the group is broken, and would wait for the dead at the end
