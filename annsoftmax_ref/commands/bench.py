"""``annsoftmax bench search | predict | upkeep | changes | soak``: the arguments, and the records they end in.

(``step``, ``growth``, ``training`` and ``searches`` are in steps.py, ``ranks`` in ranks.py, ``capacity`` in plan.py,
``cluster`` in cluster.py, ``kernels`` and ``compile`` in kernels.py.)
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

from annsoftmax_ref.bench import predict, search
from annsoftmax_ref.bench.changes import bench_changes
from annsoftmax_ref.bench.soak import bench_soak
from annsoftmax_ref.bench.upkeep import bench_upkeep
from annsoftmax_ref.bench.vectors import clustered_vectors, trained_vectors
from annsoftmax_ref.checks import check_k, check_positive_int, check_share
from annsoftmax_ref.commands.cluster import add_cluster
from annsoftmax_ref.commands.kernels import add_compile, add_kernels
from annsoftmax_ref.commands.parser import Parser, subcommand
from annsoftmax_ref.commands.plan import add_capacity
from annsoftmax_ref.commands.ranks import add_ranks
from annsoftmax_ref.commands.steps import add_growth, add_searches, add_step, add_training
from annsoftmax_ref.experiments import plots, records
from annsoftmax_ref.list_sizes import default_nlist


def add_bench(commands) -> None:
    """Add ``bench``, and the benchmarks as its own commands, to the sub-parsers ``commands``."""
    parser = commands.add_parser("bench", help="measure times")
    benches = parser.add_subparsers(dest="bench", required=True, metavar="WHAT", parser_class=Parser)
    steps = add_step, add_growth, add_training, add_searches, add_capacity, add_ranks, add_cluster
    for add in (*steps, _add_search, _add_predict, _add_upkeep, _add_changes, _add_soak, add_kernels, add_compile):
        add(benches)


def _add_search(commands) -> None:
    parser = subcommand(
        commands,
        "search",
        _search,
        "recall and times of the index, next to FAISS on the same rows",
        "annsoftmax bench search --vectors glyphs --k 50 --nprobe 4 8 16 --against faiss --plot curves.png",
    )
    parser.add_argument(
        "--vectors",
        default="clustered",
        choices=["clustered", "glyphs"],
        help="glyphs: rows of a head trained on them first (about a minute)",
    )
    parser.add_argument("--classes", type=int, default=100_000, help="rows, if clustered")
    parser.add_argument("--dim", type=int, default=128, help="numbers a row, if clustered")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument(
        "--candidates", type=int, nargs="+", help="codes that are re-ranked for each query; default 4 k"
    )
    parser.add_argument("--nlist", type=int, nargs="+", help="default: as many as the head would take")
    parser.add_argument("--nprobe", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument(
        "--against", nargs="*", default=[], choices=["faiss", "hnsw"], help="FAISS's indexes with lists; its graph"
    )
    parser.add_argument("--plot", metavar="PATH", help="draw recall against time")
    parser.add_argument("--epochs", type=int, help="of the glyph head's training; default: the recipe's")
    parser.add_argument("--seed", type=int, default=0)


def _search(arguments) -> None:
    for name in ("classes", "dim", "batch", "k"):
        check_positive_int(name, getattr(arguments, name))
    for candidates in arguments.candidates or []:
        check_positive_int("candidates", candidates)
    if arguments.plot:
        plots.check_figure_path("plot", arguments.plot)
    if arguments.vectors == "glyphs":
        vectors = trained_vectors(arguments.batch, arguments.seed, arguments.epochs, sys.stderr.isatty())
    else:
        vectors = clustered_vectors(arguments.classes, arguments.dim, arguments.batch, arguments.seed)
    quiet = arguments.json == "-"

    def announce(index: str, nlist: int | None, build_ms: float) -> None:
        print(f"{index}{f', {nlist} lists' * (nlist is not None)}: made in {build_ms / 1e3:.1f} s", flush=True)

    rows = search.bench_search(
        vectors,
        arguments.k,
        arguments.nlist or [default_nlist(len(vectors.rows))],
        arguments.nprobe,
        arguments.against,
        arguments.candidates,
        on_index=None if quiet else announce,
    )
    if not quiet:
        print(f"\n{len(vectors.rows):,} rows of {vectors.rows.shape[1]}: {vectors.kind}\n\n{search.table(rows)}")
        print(f"\nmilliseconds to equal recall\n\n{search.curves_table(rows)}")
    if arguments.json:
        records.write_record(records.make_record(rows, vectors=vectors.kind), arguments.json)
    if arguments.plot:
        plots.save_figure(plots.recall_curves(rows, search.frontier(rows)), arguments.plot)


def _add_predict(commands) -> None:
    parser = subcommand(
        commands,
        "predict",
        _predict,
        "milliseconds of top-k for one query and for many at equal recall, next to FAISS",
        "annsoftmax bench predict --classes 200000 --against faiss hnsw --threads 1",
    )
    parser.add_argument("--classes", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128, help="numbers a row")
    parser.add_argument("--batch", type=int, default=256, help="queries that are asked at once, beside one")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--nlist", type=int, nargs="+", help="lists; default: as many as a head would take, and twice")
    parser.add_argument("--recall", type=float, default=0.95, help="that all are to have (default: 0.95)")
    parser.add_argument(
        "--against",
        nargs="*",
        default=[],
        choices=["faiss", "hnsw", "scann"],
        help="FAISS's indexes with lists; its graph; ScaNN (pip install scann)",
    )
    parser.add_argument("--neighbours", type=int, nargs="+", default=[16, 32], help="M of the graph")
    parser.add_argument("--threads", type=int, default=1, help="of a search (default: 1); all cores make the indexes")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)


def _predict(arguments) -> None:
    for name in ("classes", "dim", "batch", "k", "threads", "rounds"):
        check_positive_int(name, getattr(arguments, name))
    check_k(arguments.k, arguments.classes)
    check_share("recall", arguments.recall)
    if "scann" in arguments.against and find_spec("scann") is None:
        raise ValueError("against has scann, which is not installed; leave it out, or: pip install scann")
    usual = default_nlist(arguments.classes)
    nlists = arguments.nlist or sorted({usual, min(2 * usual, arguments.classes)})
    vectors = clustered_vectors(arguments.classes, arguments.dim, arguments.batch, arguments.seed)
    quiet = arguments.json == "-"

    def announce(index: str, seconds: float) -> None:
        print(f"{index}: made in {seconds:.1f} s", flush=True)

    rows, settings = predict.bench_predict(
        vectors,
        arguments.k,
        nlists,
        arguments.against,
        arguments.recall,
        arguments.threads,
        arguments.neighbours,
        arguments.rounds,
        None if quiet else announce,
    )
    if not quiet:
        print(
            f"\n{arguments.classes:,} rows of {arguments.dim}: {vectors.kind}; recall@{arguments.k} of at least "
            f"{arguments.recall:.0%}, threads of a search: {arguments.threads}\n\n{predict.table(rows)}"
        )
    if arguments.json:
        records.write_record(records.make_record(rows, settings=settings, vectors=vectors.kind), arguments.json)


def _add_upkeep(commands) -> None:
    parser = subcommand(
        commands,
        "upkeep",
        _upkeep,
        "recall of the index that follows training, next to one made anew at every look",
        "annsoftmax bench upkeep --steps 2000",
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--plot", metavar="PATH")


def _upkeep(arguments) -> None:
    check_positive_int("steps", arguments.steps)
    check_positive_int("every", arguments.every)
    rows: list[dict] = []

    def keep(row: dict) -> None:
        rows.append(row)
        if arguments.json != "-":
            print(
                f"step {row['step']:5d}: recall {row['recall']:.1%}, rebuilt {row['recall_rebuilt']:.1%}, "
                f"code age {row['code_age']:.1f} steps, stale bits {row['stale_bits']:.2%}",
                flush=True,
            )

    try:
        bench_upkeep(arguments.steps, arguments.every, progress=sys.stderr.isatty(), on_look=keep)
    finally:  # an error or an interruption does not take what was seen before it
        if rows and arguments.json:
            records.write_record(records.make_record(rows), arguments.json)
        if rows and arguments.plot:
            plots.save_figure(plots.upkeep_curves(rows), arguments.plot)


def _add_changes(commands) -> None:
    parser = subcommand(
        commands,
        "changes",
        _changes,
        "classes added to a head in training, and removed again, next to copying all that it has",
        "annsoftmax bench changes --classes 100000 1000000 --add 1000",
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--add", type=int, default=1000, help="classes that come and go")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)


def _changes(arguments) -> None:
    for name in ("add", "dim", "rounds"):
        check_positive_int(name, getattr(arguments, name))
    sizes = [check_positive_int("classes", size) for size in arguments.classes]
    rows = []
    for row in bench_changes(sizes, arguments.add, arguments.dim, arguments.rounds):
        rows.append(row)
        if arguments.json != "-":
            print(
                f"{row['classes']:>11,} classes: {row['add']:,} added in {row['add_ms']:.1f} ms, removed in "
                f"{row['remove_ms']:.1f} ms; to copy {row['copied_mb']:.0f} MB takes {row['copy_ms']:.1f} ms; "
                f"all others {'unchanged' if row['unchanged'] else 'CHANGED'}",
                flush=True,
            )
    if arguments.json:
        records.write_record(records.make_record(rows), arguments.json)


def _add_soak(commands) -> None:
    parser = subcommand(
        commands,
        "soak",
        _soak,
        "uneven steps for many minutes, watched for leaks, NaN and decay",
        "annsoftmax bench soak --minutes 30",
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between looks")


def _soak(arguments) -> None:
    quiet = arguments.json == "-"

    rows: list[dict] = []

    def keep(row: dict) -> None:
        rows.append(row)
        if not quiet:
            print(
                f"{row['minutes']:6.1f} min, {row['steps']:7d} steps: {row['rss_mb']:.0f} MB, "
                f"loss {row['loss']:.3f}, recall {row['recall']:.1%}, finite {row['finite']}",
                flush=True,
            )

    try:
        bench_soak(arguments.minutes, arguments.classes, every=arguments.every, on_look=keep)
    finally:  # an error or an interruption does not take what was seen before it
        if rows and arguments.json:
            records.write_record(records.make_record(rows), arguments.json)
