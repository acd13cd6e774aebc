"""``annsoftmax plan``: the memory of a head, part by part, and a model of its step's time on a GPU; ``annsoftmax bench
capacity``: the same head made and trained, and what it takes."""

from __future__ import annotations

import argparse

from annsoftmax_ref.bench import capacity
from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.commands.job import add_job, job_of
from annsoftmax_ref.commands.parser import subcommand
from annsoftmax_ref.commands.plan_ranks import add_cluster_arguments, cluster_of, report_of_cluster
from annsoftmax_ref.experiments import records
from annsoftmax_ref.experiments.reports import grid
from annsoftmax_ref.machine import find_device
from annsoftmax_ref.planning import memory, times
from annsoftmax_ref.planning.cluster import plan_of_cluster

GB = 1e9


def add_plan(commands) -> None:
    """Add the command to the sub-parsers ``commands``."""
    parser = subcommand(
        commands,
        "plan",
        _plan,
        "the memory that a head will take, and its step's time on a GPU by a model, before anything is allocated",
        "annsoftmax plan --classes 30000000 --dim 512 --storage bf16 --rate 0.01 --gpu h100-80gb",
    )
    add_job(parser)
    parser.add_argument("--gpu", default="h100-80gb", choices=list(times.CARDS))
    parser.add_argument(
        "--beside", type=float, default=4.0, metavar="GIB", help="memory for the backbone, its activations and CUDA"
    )
    add_cluster_arguments(parser)


def add_capacity(commands) -> None:
    """Add the command to the sub-parsers ``commands``."""
    parser = subcommand(
        commands,
        "capacity",
        _capacity,
        "make one head, train some steps, and set the memory that it takes beside what plan counts",
        "annsoftmax bench capacity --classes 30000000 --storage bf16 --rate 0.01",
    )
    add_job(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--ranks", type=int, default=1, help="make one process's part of so many, with random samples for the others'"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def _capacity(arguments: argparse.Namespace) -> None:
    for name in ("rounds", "ranks"):
        check_positive_int(name, getattr(arguments, name))
    device = find_device(arguments.device)
    job = job_of(arguments, device.type == "cuda")
    row = capacity.bench_capacity(job, device, arguments.rounds, arguments.ranks)
    if arguments.json != "-":
        print(capacity.table(row))
    if arguments.json:
        records.write_record(records.make_record([row], device), arguments.json)


def _plan(arguments: argparse.Namespace) -> None:
    job, cluster = job_of(arguments, on_gpu=True), cluster_of(arguments)
    row = make_plan(job, arguments.gpu, arguments.beside) if cluster is None else plan_of_cluster(job, cluster)
    if arguments.json != "-":
        print(report(row) if cluster is None else report_of_cluster(row))
    if arguments.json:
        records.write_record(records.make_record([row]), arguments.json)


def make_plan(job: memory.Training, gpu: str, beside: float) -> dict:
    """{"kept": bytes by part, "step": bytes by moment, "total", "room": bytes, "largest": classes that would fit,
    "stages_ms", "full_ms", ...}; beside: GiB of the card that something else takes. Raises ValueError."""
    card, room = times.CARDS[gpu], times.room(gpu, beside)
    stages = times.stages(job, card)
    return {
        **vars(job),
        "gpu": gpu,
        "beside_gib": beside,
        "active": job.active,
        "sets": job.sets,
        "kept": memory.kept(job),
        "step": memory.moments(job),
        "total": memory.total(job),
        "room": room,
        "largest": memory.largest(job, room),
        "stages_ms": stages,
        "step_ms": sum(stages.values()),
        "full_ms": sum(times.full_stages(job, card).values()),
    }


def report(row: dict) -> str:
    """The plan as text."""
    moment = max(row["step"], key=row["step"].get)
    parts = row["kept"] | {f"beside it in a step, at most ({moment})": row["step"][moment], "**all**": row["total"]}
    times_ms = row["stages_ms"] | {"**all**": row["step_ms"], "an exact softmax, fused": row["full_ms"]}
    fits = "fits" if row["total"] <= row["room"] else "does NOT fit"
    return "\n".join(
        [
            f"{row['classes']:,} classes of {row['dim']} numbers in {row['storage']}, {row['optimizer']}; batches of "
            f"{row['batch']}: {row['sets']} x {row['active']:,} active classes",
            "",
            grid(["memory", "GB"], [[part, f"{count / GB:.2f}"] for part, count in parts.items()]),
            "",
            grid([f"stage, by a model for {row['gpu']}", "ms"], [[name, f"{ms:.3f}"] for name, ms in times_ms.items()]),
            "",
            f"{row['total'] / GB:.1f} GB {fits} into {row['room'] / GB:.1f} GB ({row['gpu']}, "
            f"{row['beside_gib']:g} GiB left to others); about {row['largest']:,} classes would.",
            "Times are the device's by bandwidth and rate (annsoftmax_ref/planning/times.py), not measured.",
        ]
    )
