"""``annsoftmax bench ranks``: a head's step on one process, and with its classes split over several.

Every process has one thread, so that P processes have P cores where the machine has them. The whole batch's step on
process 0 alone, while the others wait, and the step of all, are timed in turn, round after round.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
import torch.multiprocessing

from annsoftmax_ref.bench.heads import check_options, make_step, own_options, split_step
from annsoftmax_ref.bench.step import weight_and_batches
from annsoftmax_ref.checks import check_positive_int, check_rate
from annsoftmax_ref.experiments.reports import grid
from annsoftmax_ref.machine import memory

# In one process and split: the head that is timed split, and the strongest forms of it in one process.
HEADS = {
    "full": ("full_kernels", ("full", "full_kernels")),
    "random": ("random", ("random",)),
    "ann": ("ann", ("ann",)),
}


def bench_ranks(
    classes: int,
    dim: int,
    batch: int,
    rate: float,
    heads: list[str],
    ranks: int,
    half: bool,
    rounds: int = 7,
    seed: int = 0,
    **options,
) -> list[dict]:
    """A row a head: {"head", "classes", "dim", "batch", "rate", "ranks", "rounds", "precision", "options",
    "one": {name: ms}, "one_ms", "split_ms", "speedup", "received": bytes by what was sent, of a step and
    process, "loopback"}.

    Milliseconds are medians, one_ms that of the fastest form in one process. loopback: bytes that the loopback device
    moved in the last step, for all processes and whatever else used it; None where it cannot be read.
    """
    for name, value in (("classes", classes), ("dim", dim), ("ranks", ranks), ("rounds", rounds)):
        check_positive_int(name, value)
    check_options(heads, check_rate(rate), 1, options)
    if check_positive_int("batch", batch) % ranks:
        raise ValueError(f"batch is {batch}; it should be a multiple of ranks, {ranks}")
    with tempfile.TemporaryDirectory() as folder:
        job = (classes, dim, batch, rate, heads, half, rounds, seed, options)
        try:
            torch.multiprocessing.spawn(_work, (ranks, folder, job), nprocs=ranks)
        except torch.multiprocessing.ProcessRaisedException as error:
            raise ValueError(str(error).strip().splitlines()[-1].partition(": ")[2]) from error
        return json.loads((Path(folder) / "rows.json").read_text())


def _work(rank: int, ranks: int, folder: str, job: tuple) -> None:
    torch.set_num_threads(1)
    memory.keep_freed_memory()
    logging.getLogger("annsoftmax_ref.machine.device").setLevel(logging.ERROR)  # one head here is meant to be alone
    meeting = dist.FileStore(os.path.join(folder, "meeting"), ranks)
    dist.init_process_group("gloo", store=meeting, rank=rank, world_size=ranks, timeout=timedelta(minutes=5))
    try:
        rows = [_row(rank, ranks, name, *job) for name in job[4]]
        if rank == 0:
            (Path(folder) / "rows.json").write_text(json.dumps(rows))
    finally:
        dist.destroy_process_group()


def _row(rank: int, ranks: int, name: str, classes, dim, batch, rate, heads, half, rounds, seed, options) -> dict:
    weight, new_batch = weight_and_batches(classes, dim, batch, torch.device("cpu"), seed)
    together, alone = HEADS[name]
    shared = split_step(together, weight, rate, half, dist.group.WORLD, **options)
    own = {one: make_step(one, weight, rate, half, **options) for one in alone} if rank == 0 else {}
    times: dict[str, list[float]] = {one: [] for one in (*alone, "split")}
    for round_ in range(rounds + 2):  # two rounds warm up
        x, labels = new_batch()
        steps = [(one, own.get(one), slice(None)) for one in alone]
        for one, step, mine in (*steps, ("split", shared, slice(rank, None, ranks))):
            dist.barrier()
            before, moved = dict(shared.head.shards.received), loopback_bytes()
            start = time.perf_counter()
            if step is not None:
                step(x[mine], labels[mine])
            spent = torch.tensor([time.perf_counter() - start], dtype=torch.float64)
            dist.all_reduce(spent, dist.ReduceOp.MAX)
            if round_ >= 2:
                times[one].append(spent.item() * 1e3)
            dist.barrier()
            moved = None if moved is None else loopback_bytes() - moved
    received = shared.head.shards.received
    best = {one: median(times[one]) for one in alone}
    return {
        "head": name,
        "classes": classes,
        "dim": dim,
        "batch": batch,
        "rate": 1.0 if name == "full" else rate,
        "ranks": ranks,
        "rounds": rounds,
        "precision": "bf16" if half else "fp32",
        "options": own_options([name], options)[name],
        "one": best,
        "one_ms": min(best.values()),
        "split_ms": median(times["split"]),
        "speedup": min(best.values()) / median(times["split"]),
        "received": {what: count - before.get(what, 0) for what, count in received.items()},
        "loopback": moved,
    }


def loopback_bytes() -> int | None:
    """That the loopback device has received; None where the system does not tell."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("lo:")), None)


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table."""
    titles = ["head", "classes", "rate", "precision", "one process, ms", "processes", "split, ms", "times faster"]
    titles.append("KB received a step, by each")
    return grid(
        titles,
        [
            [
                r["head"],
                f"{r['classes']:,}",
                f"{r['rate']:g}",
                r["precision"],
                ", ".join(f"{one} {ms:.1f}" for one, ms in r["one"].items()),
                str(r["ranks"]),
                f"{r['split_ms']:.1f}",
                f"{r['speedup']:.2f}",
                f"{sum(r['received'].values()) / 1e3:.0f}",
            ]
            for r in rows
        ],
    )
