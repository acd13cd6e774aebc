"""``annsoftmax table NAME``: train the runs of a table that are missing, then print it."""

from __future__ import annotations

import sys

from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.commands.parser import subcommand
from annsoftmax_ref.experiments import plots, records
from annsoftmax_ref.experiments.runs import Run, Store, train_missing
from annsoftmax_ref.experiments.settings import STORE
from annsoftmax_ref.experiments.tables import TABLES
from annsoftmax_ref.machine import find_device
from annsoftmax_ref.machine.files import check_writable


def add_table(commands) -> None:
    """Add the command to the sub-parsers ``commands``."""
    parser = subcommand(
        commands,
        "table",
        _table,
        "train the runs of a table that were not made yet, and print it",
        "annsoftmax table rates --jobs 2",
    )
    parser.add_argument(
        "name",
        choices=[*TABLES, "all"],
        help="which table; its runs are kept and not made again. all: but those of times",
    )
    parser.add_argument("--store", default=STORE, metavar="PATH", help=f"the file of runs; default {STORE}")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each with its share of the cores")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--heads", nargs="+", help="train only these heads now")
    parser.add_argument("--seeds", nargs="+", type=int, help="train only these seeds now")
    parser.add_argument("--show", action="store_true", help="train nothing: print what there is")
    parser.add_argument("--plot", metavar="PATH", help="draw it too, if it is of a table with a plot")


def _table(arguments) -> None:
    check_positive_int("jobs", arguments.jobs)
    store, names = Store(arguments.store), [arguments.name]
    if arguments.name == "all":  # times are of a table that is asked for by itself, on a machine that does nothing else
        names = [name for name, table in TABLES.items() if not table.timed]
    chosen = [TABLES[name] for name in names]
    if arguments.jobs > 1 and any(table.timed for table in chosen) and not arguments.show:
        raise ValueError(f"jobs is {arguments.jobs}; it should be 1 for times that mean something: {arguments.name}")
    if arguments.plot and (len(chosen) > 1 or chosen[0].draw is None):
        raise ValueError(f"plot is {arguments.plot}, but the table {arguments.name} has none; leave it out")

    def named(run: Run) -> bool:
        heads, seeds = arguments.heads, arguments.seeds
        return (heads is None or run.head in heads) and (seeds is None or run.seed in seeds)

    def missing(seed: int) -> list[Run]:
        """What is to be trained with this seed, given what the store has by now."""
        wanted = dict.fromkeys(run for table in chosen for run in table.missing(store) if run.seed == seed)
        return [run for run in wanted if named(run)]

    # Seed by seed, so that the means of a table that is interrupted are of whole lines.
    runs = [run for table in chosen for run in table.runs if named(run)]
    seeds = [] if arguments.show else sorted({run.seed for run in runs})
    if any(missing(seed) for seed in seeds):
        check_writable("store", arguments.store)
    left = 0

    def announce(row: dict) -> None:
        nonlocal left
        left -= 1
        details = " ".join(f"{name}={value}" for name, value in row["options"].items())
        print(
            f"{row['task']} {row['head']} {row['objective']} {row['rate']:g} {details} seed {row['seed']}: "
            f"{row['accuracy']:.1%} after {row['seconds']:.0f} s; {left} runs to go",
            file=sys.stderr,
            flush=True,
        )

    device = str(find_device(arguments.device))
    try:
        for place, seed in enumerate(seeds):
            left = sum(len(missing(later)) for later in seeds[place:])
            train_missing(missing(seed), store, arguments.jobs, device, announce)
    finally:  # an error or an interruption does not take the table of what there is
        if arguments.json != "-":
            for name, table in zip(names, chosen, strict=True):
                print(f"{name}: {table.question}\n\n{table.render(store)}\n", flush=True)
        if arguments.json:
            rows = [store.rows[run] for run in dict.fromkeys(runs) if run in store.rows]
            records.write_record(records.make_record(rows), arguments.json)
        if arguments.plot:
            plots.save_figure(chosen[0].draw(chosen[0].found(store)), arguments.plot)
