"""The command line: ``annsoftmax`` or ``python -m annsoftmax_ref``.

Exit status 0, or 2 with one line on standard error that says what was wrong with the call, or 130 if interrupted;
``train`` has more (annsoftmax_ref/training/README.md).
"""

from __future__ import annotations

import argparse

from annsoftmax_ref import __version__
from annsoftmax_ref.commands.bench import add_bench
from annsoftmax_ref.commands.compare import add_compare
from annsoftmax_ref.commands.doctor import add_doctor
from annsoftmax_ref.commands.parser import Parser, check_outputs, print_anywhere
from annsoftmax_ref.commands.plan import add_plan
from annsoftmax_ref.commands.predict import add_predict
from annsoftmax_ref.commands.table import add_table
from annsoftmax_ref.commands.train import add_train
from annsoftmax_ref.machine.memory import keep_freed_memory
from annsoftmax_ref.machine.processes import tell_once


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="annsoftmax", description="ANN Softmax: train classifiers with very many classes.")
    parser.add_argument("--version", action="version", version=f"annsoftmax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for add in (add_doctor, add_compare, add_train, add_predict, add_table, add_bench, add_plan):
        add(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    print_anywhere()
    arguments = build_parser().parse_args(argv)
    keep_freed_memory()
    try:
        check_outputs(arguments)
        return arguments.run(arguments) or 0
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        tell_once(f"annsoftmax {arguments.command}: {' '.join(str(error).split())}")
        return 2
    except KeyboardInterrupt:
        tell_once(f"annsoftmax {arguments.command}: interrupted")
        return 130
