"""``annsoftmax bench cluster``: the arguments, and the record it ends in."""

from __future__ import annotations

import argparse
import time

import torch

from annsoftmax_ref.commands.job import add_job, job_of
from annsoftmax_ref.commands.parser import subcommand
from annsoftmax_ref.experiments import records
from annsoftmax_ref.machine.memory import peak_memory


def add_cluster(commands) -> None:
    """Add the command to the sub-parsers ``commands``."""
    parser = subcommand(
        commands,
        "cluster",
        _cluster,
        "classes split over many processes, simulated on this machine and held against plan --ranks",
        "annsoftmax bench cluster --classes 300000000 --batch 16384 --rate 0.1 --ranks 256",
    )
    add_job(parser)
    parser.add_argument("--ranks", type=int, required=True, help="processes")


def _cluster(arguments: argparse.Namespace) -> None:
    # Here, since every command reads this file and torch's distributed checkpoints take a second to import.
    from annsoftmax_ref.bench import cluster

    job, start = job_of(arguments, on_gpu=True), time.perf_counter()
    with peak_memory(torch.device("cpu")) as peak:
        rows = cluster.bench_cluster(job, arguments.ranks)
    spent = {"ranks": arguments.ranks, "seconds": time.perf_counter() - start, **peak}
    if arguments.json != "-":
        print(cluster.table(rows))
        print(f"\n{spent['ranks']} processes in {spent['seconds']:.0f} s, {_mb(spent['peak_mb'])} at most")
    if arguments.json:
        records.write_record(records.make_record(rows, job=vars(job), **spent), arguments.json)
    wrong = cluster.differing(rows)
    if wrong:
        raise ValueError(f"simulated and planned are not equal: {', '.join(wrong)}")


def _mb(count: float | None) -> str:
    return "-" if count is None else f"{count:,.0f} MB"
