"""The command line: ``annsoftmax`` or ``python -m annsoftmax_ref``.

Exit status 0, or 2 with one line on standard error that says what was wrong with the call.
"""

from __future__ import annotations

import argparse
import sys

from annsoftmax_ref import __version__
from annsoftmax_ref.machine.memory import keep_freed_memory


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="annsoftmax", description="ANN Softmax: train classifiers with very many classes.")
    parser.add_argument("--version", action="version", version=f"annsoftmax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_doctor(commands)
    _add_compare(commands)
    from annsoftmax_ref.commands.bench import add_bench
    from annsoftmax_ref.commands.table import add_table

    add_table(commands)
    add_bench(
        commands.add_parser("bench", help="measure times").add_subparsers(
            dest="bench", required=True, metavar="WHAT", parser_class=_Parser
        )
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    keep_freed_memory()
    try:
        arguments.run(arguments)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        print(f"annsoftmax {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"annsoftmax {arguments.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def subcommand(commands, name: str, run, help_: str, example: str) -> argparse.ArgumentParser:
    """A parser with what all commands share: help with an example, and ``--json``."""
    parser = commands.add_parser(name, help=help_, description=help_, epilog=f"example: {example}")
    parser.add_argument("--json", metavar="PATH", help="write the record there; - for standard output, and only it")
    parser.set_defaults(run=run)
    return parser


def _add_doctor(commands) -> None:
    subcommand(
        commands,
        "doctor",
        _doctor,
        "what this machine has, what will run, what is missing",
        "annsoftmax doctor --json -",
    )


def _doctor(arguments) -> None:
    from annsoftmax_ref.commands import doctor
    from annsoftmax_ref.experiments import records

    facts = doctor.examine()
    if arguments.json != "-":
        print(doctor.report(facts))
    if arguments.json:
        records.write_record(facts, arguments.json)


def _add_compare(commands) -> None:
    from annsoftmax_ref.experiments.tasks import NAMES
    from annsoftmax_ref.factory import DEFAULT_HEADS, HEADS
    from annsoftmax_ref.objectives import OBJECTIVES

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
    parser.add_argument("--groups", type=int, help="active sets per batch (ann); default: by the batch and the rate")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--verify", nargs="+", default=[], metavar="PATH.bin", help="test on these pairs, too (LFW, CFP-FP, AgeDB-30)"
    )
    parser.add_argument("--plot", metavar="PATH", help="draw accuracy against epochs and seconds (.png, .svg, .pdf)")


def _compare(arguments) -> None:
    from annsoftmax_ref.experiments import compare, plots, records

    quiet, terminal = arguments.json == "-", sys.stderr.isatty()

    def announce(row: dict) -> None:
        print(
            f"{row['head']:<8} seed {row['seed']}: {compare.headline_title(row)} {row['accuracy']:.1%} "
            f"after {row['seconds']:.0f} s of training",
            flush=True,
        )

    def tick(head: str, history) -> None:  # in a log file, a line an epoch instead of a bar
        last = history.epochs[-1]
        print(
            f"{head:<8} epoch {last.epoch}: loss {last.loss:.3f}, test {last.accuracy:.1%}, {last.seconds:.0f} s",
            flush=True,
        )

    rows = compare.compare(
        arguments.task,
        arguments.heads,
        arguments.objective,
        arguments.rate,
        arguments.groups,
        arguments.epochs,
        arguments.seeds,
        arguments.device,
        progress=terminal,
        on_row=None if quiet else announce,
        on_epoch=None if quiet or terminal else tick,
        verify=arguments.verify,
    )
    if not quiet:
        print("\n" + compare.table(rows))
    if arguments.json:
        records.write_record(records.make_record(rows), arguments.json)
    if arguments.plot:
        plots.save_figure(plots.accuracy_curves(rows), arguments.plot)
