"""``annsoftmax bench ranks``: times of a step whose classes are split over processes."""

from __future__ import annotations

from annsoftmax_ref.bench import ranks
from annsoftmax_ref.commands.parser import add_options, read_options, subcommand
from annsoftmax_ref.experiments import records
from annsoftmax_ref.machine import find_device
from annsoftmax_ref.machine.device import PRECISIONS, half_of


def add_ranks(commands) -> None:
    """Add the command to the sub-parsers ``commands``."""
    parser = subcommand(
        commands,
        "ranks",
        _ranks,
        "time a head's step on one process of one thread, and with its classes split over several",
        "annsoftmax bench ranks --classes 1000000 --ranks 2 --heads full ann",
    )
    parser.add_argument("--classes", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256, help="of all processes together")
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--heads", nargs="+", default=list(ranks.HEADS), choices=list(ranks.HEADS))
    parser.add_argument("--ranks", type=int, default=2, help="processes")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help="of the matrix products")
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=7)


def _ranks(arguments) -> None:
    half = half_of(arguments.precision, find_device("cpu"))
    job = [getattr(arguments, name) for name in ("classes", "dim", "batch", "rate", "heads", "ranks")]
    rows = ranks.bench_ranks(*job, half, arguments.rounds, **read_options(arguments.options))
    if arguments.json != "-":
        print(ranks.table(rows))
    if arguments.json:
        records.write_record(records.make_record(rows), arguments.json)
