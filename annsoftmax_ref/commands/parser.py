"""What the commands share: their argument parser, the checks of what they end in, and the terminals they print to."""

from __future__ import annotations

import argparse
import ast
import codecs
import sys

from annsoftmax_ref.experiments.plots import check_figure_path
from annsoftmax_ref.machine.files import check_writable
from annsoftmax_ref.machine.processes import tell_once


class Parser(argparse.ArgumentParser):
    """A wrong call ends with status 2 and one line."""

    def error(self, message):
        tell_once(f"{self.prog}: {message} (see {self.prog} --help)")
        self.exit(2)


def subcommand(commands, name: str, run, help_: str, example: str) -> argparse.ArgumentParser:
    """A parser with what all commands share: help with an example, and ``--json``."""
    parser = commands.add_parser(name, help=help_, description=help_, epilog=f"example: {example}")
    parser.add_argument("--json", metavar="PATH", help="write the record there; - for standard output, and only it")
    parser.set_defaults(run=run)
    return parser


OPTION_HELP = "further options of selectors, such as nlist=32 priority=true, each for the heads that have it"


def add_options(parser: argparse.ArgumentParser, help_: str = OPTION_HELP, default=None) -> None:
    """The flag ``--option NAME=VALUE ...``, which may be repeated; ``read_options`` reads what it gives."""
    parser.add_argument(
        "--option", dest="options", action="extend", nargs="+", metavar="NAME=VALUE", default=default, help=help_
    )


def read_options(given: list[str] | None) -> dict[str, object]:
    """``["nprobe=32"]`` -> names and values: a number, True, False, None or a text; of one name the last.

    The words may be written as Python has them, or small, as TOML and JSON do.
    """
    return dict(map(_option, given or []))


def _option(text: str) -> tuple[str, object]:
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise ValueError(f"option is {text!r}; it should be NAME=VALUE")
    try:
        return name, ast.literal_eval(value.capitalize() if value in ("true", "false", "none") else value)
    except (ValueError, SyntaxError):
        return name, value


def check_outputs(arguments: argparse.Namespace) -> None:
    """ValueError if the record or the plot could not be written; to be called before any work is done."""
    if arguments.json not in (None, "-"):
        check_writable("json", arguments.json)
    if getattr(arguments, "plot", None) is not None:
        check_figure_path("plot", arguments.plot)


def print_anywhere() -> None:
    """Have standard output and error take any text: a terminal without a letter is given another for it."""
    codecs.register_error("annsoftmax", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="annsoftmax")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """A handler of encoding errors: +- for ±, ? for what else the encoding lacks."""
    text = error.object[error.start : error.end]
    return "".join({"±": "+-"}.get(letter, "?") for letter in text), error.end
