"""Memory that a head takes, and its step, at as many classes as fit: is it what ``annsoftmax plan`` counts?

The head is made where it is to train, its rows at random, and takes some steps; no other head is beside it, and no copy
of its weights.
"""

from __future__ import annotations

import gc
import time
from statistics import median

import torch
from torch.distributed import ProcessGroup

from annsoftmax_ref import CosFace, NearestClasses, RowAdamW, RowSGD, SoftmaxHead
from annsoftmax_ref.bench.one_of_many import inject, one_of_many
from annsoftmax_ref.experiments.reports import grid
from annsoftmax_ref.experiments.runs import STORAGES
from annsoftmax_ref.machine import memory
from annsoftmax_ref.machine.device import wait_for
from annsoftmax_ref.planning.memory import PRODUCTS, Training, kept, moments, total
from annsoftmax_ref.planning.ranks import rank_of

OPTIMIZERS = {
    "sgd": (RowSGD, {"momentum": 0.9}),
    "sgd_without_momentum": (RowSGD, {}),
    "adamw": (RowAdamW, {}),
}


class TrainedPart:
    """A head as ``job`` describes it, with its optimizer; a call takes a step on a random batch.

    group: of ``one_of_many``; then it is the part of that head that this process has.
    """

    def __init__(
        self,
        job: Training,
        device: torch.device | None = None,
        seed: int = 0,
        group: ProcessGroup | None = None,
    ):
        device = device or torch.device("cpu")
        self.head = SoftmaxHead(
            job.classes,
            job.dim,
            NearestClasses(job.rate, groups=job.groups, flat=job.flat, far=True),
            CosFace(),
            seed=seed,
            device=device,
            dtype=STORAGES[job.storage].weight,
            process_group=group,
        )
        self.samples, self.kind = job.batch, torch.float32
        if group is not None:
            self.samples, self.kind = job.batch // group.size(), PRODUCTS[job.products]
            inject(self.head.shards, seed)
        kind, options = OPTIMIZERS[job.optimizer]
        if STORAGES[job.storage].momentum == torch.int8:
            options = options | {"momentum_dtype": torch.int8}
        self.optimizer, self.job, self.device = kind(self.head.parameters(), lr=0.01, **options), job, device
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self) -> None:
        x = torch.randn(self.samples, self.job.dim, generator=self.generator)
        x = x.to(self.device, self.kind).requires_grad_()
        labels = torch.randint(self.job.classes, (self.samples,), generator=self.generator).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.job.products == "bf16"):
            loss = self.head(x, labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def parts(self) -> dict[str, int]:
        """Bytes of every tensor that is kept and as long as the classes are many, by the plan's names."""
        index, state = self.head.selector.index, self.optimizer.state[self.head.weight]
        place, slots = ([], []) if self.job.flat else ([index.lists.place], [index.lists.slots, index.lists.slot_codes])
        tensors = {
            "weights": [self.head.weight],
            "optimizer's buffers": [state[name] for name in self.optimizer.buffers if state[name] is not None],
            "step of each row": [state["last"]],
            "sign codes": [index.codes],
            "clock of each code": [index.written],
            "list and place of each row": [index.assignment, *place],
            "lists: ids and codes again": slots,
            "centroids and mean rows": [index.centroids, index.means],
        }
        return {part: sum(t.nbytes for t in some) for part, some in tensors.items()}


def bench_capacity(job: Training, device: torch.device, rounds: int = 5, ranks: int = 1) -> dict:
    """{**job, "planned": bytes, "planned_parts", "kept_parts", "step_mb", "taken": bytes, "ms": median of a step, ...}.

    taken: kept_parts and the most that a step takes beside them, by torch's allocator on a GPU, on the CPU by the
    system (None where it does not say). largest_list: over the mean. ranks: of so many processes the first one's part,
    alone (``one_of_many``).
    """
    if job.batch % ranks:
        raise ValueError(f"batch is {job.batch}; it should be a multiple of the {ranks} ranks, a part of it for each")
    if ranks == 1:
        return _measured(job, TrainedPart(job, device), device, rounds) | {"ranks": 1}
    with one_of_many(0, ranks) as group:
        return _measured(rank_of(job, ranks), TrainedPart(job, device, group=group), device, rounds) | {"ranks": ranks}


def _measured(part: Training, trained: TrainedPart, device: torch.device, rounds: int) -> dict:
    """part: what is planned of what ``trained`` has."""
    for _ in range(2):  # the index is made, and the optimizer's buffers
        trained()
    wait_for(device)
    gc.collect()
    with memory.peak_memory(device) as peak:
        trained()
        wait_for(device)
    spent = []
    for _ in range(rounds):
        start = time.perf_counter()
        trained()
        wait_for(device)
        spent.append((time.perf_counter() - start) * 1e3)
    parts, beside, sizes = trained.parts(), peak["peak_mb"], trained.head.selector.index.lists.sizes.double()
    return {
        **vars(trained.job),
        "planned": total(part),
        "planned_parts": kept(part) | {"beside it in a step": max(moments(part).values())},
        "kept_parts": parts,
        "step_mb": beside,
        "taken": None if beside is None else sum(parts.values()) + int(beside * 2**20),
        "largest_list": float(sizes.max() / sizes.mean()),
        "rounds": rounds,
        "ms": median(spent),
    }


def table(row: dict) -> str:
    """The parts, as planned and as they are, as a Markdown table."""
    found = row["kept_parts"] | {"beside it in a step": None if row["step_mb"] is None else row["step_mb"] * 2**20}
    planned = row["planned_parts"] | {"all": row["planned"]}
    found |= {"all": row["taken"]}
    lines = [[part, f"{count / 1e9:.3f}", _gb(found[part])] for part, count in planned.items()]
    return grid(["memory, GB", "planned", "taken"], lines) + f"\n\nA step takes {row['ms']:.1f} ms."


def _gb(count: float | None) -> str:
    return "-" if count is None else f"{count / 1e9:.3f}"
