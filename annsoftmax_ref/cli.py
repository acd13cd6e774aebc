"""The command line: ``annsoftmax`` or ``python -m annsoftmax_ref``.

Exit status 0, or 2 with one line on standard error that says what was wrong with the call.
"""

from __future__ import annotations

import argparse
import sys

from annsoftmax_ref import __version__


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="annsoftmax", description="ANN Softmax: train classifiers with very many classes.")
    parser.add_argument("--version", action="version", version=f"annsoftmax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_doctor(commands)
    _add_compare(commands)
    bench = commands.add_parser("bench", help="measure times").add_subparsers(
        dest="bench", required=True, metavar="WHAT", parser_class=_Parser)
    _add_bench_search(bench)
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, TypeError, OSError) as error:
        print(f"annsoftmax {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"annsoftmax {arguments.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _command(commands, name: str, run, help_: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_, description=help_, epilog=f"example: {example}")
    parser.add_argument("--json", metavar="PATH", help="write the record there; - for standard output, and only it")
    parser.set_defaults(run=run)
    return parser


def _add_doctor(commands) -> None:
    _command(commands, "doctor", _doctor, "what this machine has, what will run, what is missing",
             "annsoftmax doctor --json -")


def _doctor(arguments) -> None:
    from annsoftmax_ref import doctor, records
    facts = doctor.examine()
    if arguments.json != "-":
        print(doctor.report(facts))
    if arguments.json:
        records.write_record(facts, arguments.json)


def _add_compare(commands) -> None:
    from annsoftmax_ref.head import HEADS
    from annsoftmax_ref.objectives import OBJECTIVES
    parser = _command(commands, "compare", _compare, "train heads on the same data and print a table",
                      "annsoftmax compare --task glyphs --heads full random ann --objective cosface --rate 0.1")
    parser.add_argument("--task", default="glyphs", help="glyphs, pairs:NUMBER_OF_CLASSES or fonts:FOLDER")
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=HEADS)
    parser.add_argument("--objective", default="cosface", choices=list(OBJECTIVES))
    parser.add_argument("--rate", type=float, default=0.1, help="part of the classes that a group is scored against")
    parser.add_argument("--groups", type=int, default=8, help="active sets per batch (ann)")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--plot", metavar="PATH", help="draw accuracy against epochs and seconds (.png, .svg, .pdf)")


def _compare(arguments) -> None:
    from annsoftmax_ref import compare, plots, records
    quiet, terminal = arguments.json == "-", sys.stderr.isatty()

    def announce(row: dict) -> None:
        print(f"{row['head']:<8} seed {row['seed']}: accuracy {row['accuracy']:.1%} "
              f"after {row['seconds']:.0f} s of training", flush=True)

    def tick(head: str, history) -> None:                # in a log file, a line an epoch instead of a bar
        last = history.epochs[-1]
        print(f"{head:<8} epoch {last.epoch}: loss {last.loss:.3f}, accuracy {last.accuracy:.1%}, "
              f"{last.seconds:.0f} s", flush=True)

    rows = compare.compare(
        arguments.task, arguments.heads, arguments.objective, arguments.rate, arguments.groups, arguments.epochs,
        arguments.seeds, arguments.device, progress=terminal, on_row=None if quiet else announce,
        on_epoch=None if quiet or terminal else tick)
    if not quiet:
        print("\n" + compare.table(rows))
    if arguments.json:
        records.write_record(records.make_record(rows), arguments.json)
    if arguments.plot:
        plots.save_figure(plots.accuracy_curves(rows), arguments.plot)


def _add_bench_search(commands) -> None:
    parser = _command(commands, "search", _bench_search, "recall and times of the index, next to FAISS on the same rows",
                      "annsoftmax bench search --vectors glyphs --k 50 --nprobe 4 8 16 --against faiss")
    parser.add_argument("--vectors", default="clustered", choices=["clustered", "glyphs"],
                        help="glyphs: rows of a head trained on them first (about a minute)")
    parser.add_argument("--classes", type=int, default=100_000, help="rows, if clustered")
    parser.add_argument("--dim", type=int, default=128, help="numbers a row, if clustered")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--candidates", type=int, help="codes that are re-ranked for each query; default 4 k")
    parser.add_argument("--nlist", type=int, help="default: about the square root of the number of rows")
    parser.add_argument("--nprobe", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--against", nargs="*", default=[], choices=["faiss"])
    parser.add_argument("--epochs", type=int, help="of the glyph head's training; default: the recipe's")
    parser.add_argument("--seed", type=int, default=0)


def _bench_search(arguments) -> None:
    from annsoftmax_ref import records
    from annsoftmax_ref.bench import search
    from annsoftmax_ref.bench.vectors import clustered_vectors, trained_vectors
    from annsoftmax_ref.checks import check_positive_int
    from annsoftmax_ref.selectors import default_nlist
    for name in ("classes", "dim", "batch", "k"):
        check_positive_int(name, getattr(arguments, name))
    if arguments.vectors == "glyphs":
        vectors = trained_vectors(arguments.batch, arguments.seed, arguments.epochs, sys.stderr.isatty())
    else:
        vectors = clustered_vectors(arguments.classes, arguments.dim, arguments.batch, arguments.seed)
    nlist = arguments.nlist or default_nlist(len(vectors.rows))
    rows = search.bench_search(vectors, arguments.k, nlist, arguments.nprobe, arguments.against, arguments.candidates)
    if arguments.json != "-":
        print(f"{len(vectors.rows):,} rows of {vectors.rows.shape[1]}: {vectors.kind}\n\n{search.table(rows)}")
    if arguments.json:
        records.write_record(records.make_record(rows, vectors=vectors.kind), arguments.json)
