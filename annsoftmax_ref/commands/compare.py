"""``annsoftmax compare``: train heads on the same data and print a table."""

from __future__ import annotations

import sys

from annsoftmax_ref.commands.parser import add_options, read_options, subcommand
from annsoftmax_ref.experiments import plots, records, reports
from annsoftmax_ref.experiments.compare import compare
from annsoftmax_ref.experiments.tasks import NAMES
from annsoftmax_ref.factory import DEFAULT_HEADS, HEADS
from annsoftmax_ref.objectives import OBJECTIVES


def add_compare(commands) -> None:
    """Add the command to the sub-parsers ``commands``."""
    parser = subcommand(
        commands,
        "compare",
        _compare,
        "train heads on the same data and print a table",
        "annsoftmax compare --task glyphs --heads full random ann --objective cosface --rate 0.1",
    )
    parser.add_argument("--task", default="glyphs", help=NAMES)
    parser.add_argument("--heads", nargs="+", default=list(DEFAULT_HEADS), choices=HEADS)
    parser.add_argument("--objective", default="cosface", choices=list(OBJECTIVES))
    parser.add_argument("--rate", type=float, default=0.1, help="part of the classes that a group is scored against")
    parser.add_argument(
        "--groups",
        type=int,
        help="active sets per batch, for every sampling head; default: ann by the batch and the rate, the others one",
    )
    add_options(parser, "a further option of selectors, such as nprobe=32, for the heads that have it; may be repeated")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--verify", nargs="+", default=[], metavar="PATH.bin", help="test on these pairs, too (LFW, CFP-FP, AgeDB-30)"
    )
    parser.add_argument("--plot", metavar="PATH", help="draw accuracy against epochs and seconds (.png, .svg, .pdf)")


def _compare(arguments) -> None:
    quiet, terminal = arguments.json == "-", sys.stderr.isatty()
    rows: list[dict] = []

    def keep(row: dict) -> None:
        rows.append(row)
        if not quiet:
            print(
                f"{row['head']:<8} seed {row['seed']}: {reports.headline_title(row)} {row['accuracy']:.1%} "
                f"after {row['seconds']:.0f} s of training",
                flush=True,
            )

    def tick(head: str, history) -> None:  # in a log file, a line an epoch instead of a bar
        last = history.epochs[-1]
        print(
            f"{head:<8} epoch {last.epoch}: loss {last.loss:.3f}, test {last.accuracy:.1%}, {last.seconds:.0f} s",
            flush=True,
        )

    try:
        compare(
            arguments.task,
            arguments.heads,
            arguments.objective,
            arguments.rate,
            arguments.groups,
            arguments.epochs,
            arguments.seeds,
            arguments.device,
            progress=terminal,
            on_row=keep,
            on_epoch=None if quiet or terminal else tick,
            verify=arguments.verify,
            options=read_options(arguments.options),
        )
    finally:  # an error or an interruption does not take what was trained before it
        if rows:
            _write(rows, arguments)


def _write(rows: list[dict], arguments) -> None:
    if arguments.json != "-":
        print("\n" + reports.comparison(rows), flush=True)
    if arguments.json:
        records.write_record(records.make_record(rows), arguments.json)
    if arguments.plot:
        plots.save_figure(plots.accuracy_curves(rows), arguments.plot)
