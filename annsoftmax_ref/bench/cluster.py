"""A cluster on one machine: all processes of a split head, one after the other, held against ``plan --ranks``.

Tensors are on torch's ``meta`` device, which has shapes and no numbers, and the group is ``one_of_many``: so 300
million classes over 256 processes take some seconds. Executed are the division of classes and places, the fullest
process's tensors, every collective of a step at its full size, and the plan of a checkpoint, in which
torch.distributed.checkpoint finds every row in exactly one process's file. A small head with numbers, as one of as
many processes, takes a whole step, whose bytes must be the plan's, too.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.distributed.checkpoint import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from annsoftmax_ref.bench.capacity import TrainedPart
from annsoftmax_ref.bench.one_of_many import one_of_many
from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.experiments.reports import grid
from annsoftmax_ref.planning.communication import received
from annsoftmax_ref.planning.memory import PRODUCTS, Training, kept
from annsoftmax_ref.planning.ranks import Rank, rank_of
from annsoftmax_ref.row_parameter import unwatched
from annsoftmax_ref.shards import Shards
from kernels_inline.checks import gradient_kind

META = torch.device("meta")
ROWS, DIM, SAMPLES = 400, 32, 2  # of a process of the small head
SAVED = {  # of the parts that are kept, those of which a checkpoint has a row for each class
    "weights": ["weight"],
    "optimizer's buffers": ["momentum_buffer", "momentum_scale", "exp_avg", "exp_avg_sq"],
    "sign codes": ["codes"],
    "list and place of each row": ["assignment"],
}


def bench_cluster(job: Training, ranks: int) -> list[dict]:
    """Rows of {"what", "simulated", "planned"}, numbers that should be equal. Raises ValueError."""
    check_positive_int("ranks", ranks)
    if not job.flat:
        raise ValueError("flat is 0; it should be 1 or 2, as on a GPU: inverted lists have no shape without numbers")
    if job.batch % ranks:
        raise ValueError(f"batch is {job.batch}; it should be a multiple of the {ranks} ranks, a part of it for each")
    rank = rank_of(job, ranks)
    rows, fullest = _division(job, rank)
    with one_of_many(fullest, ranks) as group:
        trained = _made(TrainedPart(job, META, group=group))
        rows += _compared("kept: ", trained.parts(), kept(rank))
        rows += _compared("received: ", _exchanged(Shards(job.classes, group), job), received(job, ranks))
    for flat in (job.flat, 0):
        small = Training(ROWS * ranks, DIM, SAMPLES * ranks, flat=flat, products=job.products)
        name = f"received by a small head, {'flat search' if flat else 'lists'}: "
        rows += _compared(name, _exchanged_by_a_head(small, ranks), received(small, ranks))
    return rows + _checkpoint(job, ranks, _state(trained))


def differing(rows: list[dict]) -> list[str]:
    """What was not as it was planned."""
    return [row["what"] for row in rows if row["simulated"] != row["planned"]]


def table(rows: list[dict]) -> str:
    """As a Markdown table."""
    wrong = differing(rows)
    lines = [
        [row["what"], f"{row['simulated']:,}", f"{row['planned']:,}", "NOT equal" if row["what"] in wrong else "equal"]
        for row in rows
    ]
    return grid(["what", "simulated", "planned", ""], lines)


def _compared(prefix: str, simulated: dict[str, int], planned: dict[str, int]) -> list[dict]:
    names = dict.fromkeys([*planned, *simulated])
    return [
        {"what": prefix + name, "simulated": simulated.get(name, 0), "planned": planned.get(name, 0)} for name in names
    ]


def _division(job: Training, rank: Rank) -> tuple[list[dict], int]:
    """What all processes have together and the fullest has, and which that is."""
    shares, sizes, end, tiles = [], [], 0, True
    for one in range(rank.ranks):
        with one_of_many(one, rank.ranks) as group:
            shards = Shards(job.classes, group)
        tiles, end = tiles and shards.first == end, shards.last
        sizes.append(shards.size)
        shares.append(shards.share(job.active))
    rows = [
        ("classes that follow on those of the process before", sum(sizes) if tiles else 0, job.classes),
        ("classes of the fullest process", max(sizes), rank.classes),
        ("places of an active set, all processes", sum(shares), job.active),
        ("places of the fullest process", max(shares), rank.active),
    ]
    fullest = max(range(rank.ranks), key=lambda one: (sizes[one], shares[one]))
    return [dict(zip(("what", "simulated", "planned"), row, strict=True)) for row in rows], fullest


def _made(trained: TrainedPart) -> TrainedPart:
    """With its optimizer's buffers, which the first step makes: of a single row."""
    weight = trained.head.weight
    first = torch.zeros(1, 1, dtype=torch.int64, device=META)
    slope = torch.zeros(1, weight.shape[1], dtype=gradient_kind(weight), device=META)
    weight.grad = torch.sparse_coo_tensor(first, slope, weight.shape, is_coalesced=True, check_invariants=False)
    trained.optimizer.step()
    return trained


def _exchanged(shards: Shards, job: Training) -> dict[str, int]:
    """Bytes received by name in the collectives of a step with a flat search, of tensors of their sizes."""
    each = job.batch // shards.ranks
    sizes = [each] * shards.ranks
    embeddings = torch.zeros(each, job.dim, dtype=PRODUCTS[job.products], device=META, requires_grad=True)
    shards.gather_on_host(torch.zeros(7, dtype=torch.int64), "header")
    x = shards.gather_batch(embeddings, sizes, 1.0)
    shards.gather(torch.zeros(each, dtype=torch.int64, device=META), sizes, "labels")
    logit = x.sum(dim=1)
    (shards.sum(logit) + shards.log_sum(logit)).sum().backward()
    return dict(shards.received)


def _exchanged_by_a_head(job: Training, ranks: int) -> dict[str, int]:
    """The same of a head with numbers, in its second step."""
    with one_of_many(ranks // 2, ranks) as group:
        trained = TrainedPart(job, group=group)
        trained()
        trained.head.shards.received.clear()
        trained()
        return dict(trained.head.shards.received)


def _state(trained: TrainedPart) -> dict[str, Tensor]:
    """What a checkpoint has of every class."""
    index, state = trained.head.selector.index, trained.optimizer.state[trained.head.weight]
    buffers = {name: state[name] for name in trained.optimizer.buffers if state[name] is not None}
    with unwatched():  # rows without numbers do not lag
        weight = trained.head.weight.data
    return {"weight": weight, **buffers, "codes": index.codes, "assignment": index.assignment}


def _checkpoint(job: Training, ranks: int, fullest: dict[str, Tensor]) -> list[dict]:
    """Bytes that all processes would write. Raises ValueError if rows are missing, or are in two processes' parts.

    fullest: the tensors of the fullest process; all others' are like them.
    """
    plans = [_plan_of(one, ranks, job.classes, fullest) for one in range(ranks)]
    _, metadata = DefaultSavePlanner().create_global_plan(plans)  # raises, as said
    written = dict.fromkeys(fullest, 0)
    for name, stored in metadata.state_dict_metadata.items():
        width = stored.properties.dtype.itemsize
        written[name] = sum(chunk.sizes.numel() * width for chunk in stored.chunks)
    found = {part: sum(written.get(name, 0) for name in names) for part, names in SAVED.items()}
    return _compared("checkpoint: ", found, {part: kept(replace(job, flat=1))[part] for part in SAVED})


def _plan_of(one: int, ranks: int, classes: int, like: dict[str, Tensor]) -> SavePlan:
    """What process ``one`` would write."""
    with one_of_many(one, ranks) as group:
        size = Shards(classes, group).size
        mesh = init_device_mesh("cpu", (ranks,))
        state = {}
        for name, tensor in like.items():
            whole = torch.empty(classes, *tensor.shape[1:], dtype=tensor.dtype, device=META)
            mine = torch.empty(size, *tensor.shape[1:], dtype=tensor.dtype, device=META)
            state[name] = DTensor.from_local(
                mine, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride()
            )
        planner = DefaultSavePlanner()
        planner.set_up_planner(state, is_coordinator=one == 0)
        return planner.create_local_plan()
