"""The command line: ``annsoftmax`` or ``python -m annsoftmax_ref``.

Exit status 0, or 2 with one line on standard error that says what was wrong with the call, or 130 if interrupted.
"""

from __future__ import annotations

import argparse
import sys

from annsoftmax_ref import __version__
from annsoftmax_ref.commands.bench import add_bench
from annsoftmax_ref.commands.compare import add_compare
from annsoftmax_ref.commands.doctor import add_doctor
from annsoftmax_ref.commands.parser import Parser, check_outputs, print_anywhere
from annsoftmax_ref.commands.plan import add_plan
from annsoftmax_ref.commands.table import add_table
from annsoftmax_ref.machine.memory import keep_freed_memory


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="annsoftmax", description="ANN Softmax: train classifiers with very many classes.")
    parser.add_argument("--version", action="version", version=f"annsoftmax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for add in (add_doctor, add_compare, add_table, add_bench, add_plan):
        add(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    print_anywhere()
    arguments = build_parser().parse_args(argv)
    keep_freed_memory()
    try:
        check_outputs(arguments)
        arguments.run(arguments)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        print(f"annsoftmax {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"annsoftmax {arguments.command}: interrupted", file=sys.stderr)
        return 130
    return 0
