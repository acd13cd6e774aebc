"""``annsoftmax bench step | growth | training | searches``: times of the head's step, and of training."""

from __future__ import annotations

from collections.abc import Callable

import torch

from annsoftmax_ref.bench import growth, searches, step, training
from annsoftmax_ref.bench.heads import STEPS, check_options
from annsoftmax_ref.checks import check_positive_int, check_rate
from annsoftmax_ref.commands.parser import add_options, read_options, subcommand
from annsoftmax_ref.experiments import plots, records
from annsoftmax_ref.machine import find_device
from annsoftmax_ref.machine.device import PRECISIONS, bfloat16_is_fast, half_of

ACTIVE, PROBED = 25_000, 64  # of a growth with both of them fixed


def add_step(commands) -> None:
    """Add the command to the sub-parsers ``commands``."""
    parser = subcommand(
        commands,
        "step",
        _step,
        "time one whole head step: loss, gradients, update, index upkeep",
        "annsoftmax bench step --classes 5204 --rate 0.1 --heads full ann --busy 1",
    )
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--heads", nargs="+", default=["full", "random_dense", "random", "ann"], choices=list(STEPS))
    parser.add_argument(
        "--precision",
        default="auto",
        choices=PRECISIONS,
        help="of the matrix products, for every head; auto: bf16 where the device is fast in it",
    )
    parser.add_argument(
        "--groups", type=int, default=1, help="active sets per batch, of every head but full and random_dense"
    )
    add_options(parser)
    for name in ("nlist", "nprobe", "candidates"):
        parser.add_argument(
            f"--{name}",
            dest="options",
            action="append",
            type=f"{name}={{}}".format,
            metavar="N",
            help=f"short for --option {name}=N",
        )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--busy",
        type=int,
        default=0,
        metavar="N",
        help="run N copies of the same steps beside it, each a process with the default number of threads",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def _step(arguments) -> None:
    for name in ("classes", "dim", "batch", "rounds"):
        check_positive_int(name, getattr(arguments, name))
    if arguments.busy < 0:
        raise ValueError(f"busy is {arguments.busy}; it should be 0 or more copies")
    check_rate(arguments.rate)
    options = read_options(arguments.options)
    check_options(arguments.heads, arguments.rate, arguments.groups, options)
    device = find_device(arguments.device)
    half = half_of(arguments.precision, device)
    quiet = arguments.json == "-"
    rows = step.bench_step(
        arguments.classes,
        arguments.dim,
        arguments.batch,
        arguments.rate,
        arguments.heads,
        half,
        arguments.rounds,
        device,
        busy=arguments.busy,
        on_head=None if quiet else _announce,
        groups=arguments.groups,
        **options,
    )
    _tell(rows, step.table, arguments.json, device)


def _announce(head: str, ms: float, first_ms: float) -> None:
    print(f"{head}: about {ms:.0f} ms a step, the first {first_ms / 1e3:.1f} s", flush=True)


def _tell(rows: list[dict], table: Callable[[list[dict]], str], json: str | None, device="cpu") -> None:
    """Print the table, and write the record to ``json`` if there is one: "-" is standard output, and only it."""
    if json != "-":
        print("\n" + table(rows), flush=True)
    if json:
        records.write_record(records.make_record(rows, device), json)


def add_growth(commands) -> None:
    """Add the command to the sub-parsers ``commands``."""
    parser = subcommand(
        commands,
        "growth",
        _growth,
        "time of a step as the classes grow, with the active classes and the lists probed fixed, or a share of all",
        "annsoftmax bench growth --classes 5000 50000 500000 --rate 0.1 --heads full ann --plot growth.png",
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[250_000, 1_000_000, 4_000_000])
    scored = parser.add_mutually_exclusive_group()
    scored.add_argument("--active", type=int, help=f"classes that are scored at every size; default {ACTIVE:,}")
    scored.add_argument("--rate", type=float, help="score this share of them instead, all else as a head has it")
    parser.add_argument("--nprobe", type=int, help=f"lists probed; default {PROBED}, with --rate the head's own")
    parser.add_argument("--heads", nargs="+", default=["ann"], choices=list(STEPS))
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    add_options(parser)
    parser.add_argument("--plot", metavar="PATH", help="draw time against the number of classes")


def _growth(arguments) -> None:
    for name in ("dim", "batch", "rounds"):
        check_positive_int(name, getattr(arguments, name))
    for name in ("active", "nprobe"):
        if getattr(arguments, name) is not None:
            check_positive_int(name, getattr(arguments, name))
    sizes = sorted(check_positive_int("classes", size) for size in arguments.classes)
    if arguments.rate is None:
        active = arguments.active or ACTIVE
        if active > sizes[0]:
            raise ValueError(f"active is {active}; it should be at most the smallest number of classes, {sizes[0]}")
        rates = {size: active / size for size in sizes}
        groups, nprobe = 1, arguments.nprobe or PROBED
    else:
        rates = dict.fromkeys(sizes, check_rate(arguments.rate))
        groups, nprobe = None, arguments.nprobe
    options = read_options(arguments.options)
    check_options(arguments.heads, min(rates.values()), groups, options)
    quiet = arguments.json == "-"
    rows: list[dict] = []

    def keep(found: list[dict]) -> None:
        rows.extend(found)
        if not quiet:
            times = ", ".join(f"{row['head']} {row['ms_median']:.1f}" for row in found)
            print(f"{found[0]['classes']:>11,} classes: {times} ms a step", flush=True)

    try:
        growth.bench_growth(
            rates,
            arguments.heads,
            arguments.dim,
            arguments.batch,
            bfloat16_is_fast(torch.device("cpu")),
            arguments.rounds,
            None if quiet else _announce,
            keep,
            groups=groups,
            **{"nprobe": nprobe} | options,
        )
    finally:  # an error or an interruption does not take what was measured before it
        if rows:
            _write_growth(rows, arguments)


def _write_growth(rows: list[dict], arguments) -> None:
    exponents = {head: growth.exponent(growth.of_head(rows, head)) for head in dict.fromkeys(r["head"] for r in rows)}
    if arguments.json != "-":
        for head, exponent in exponents.items():
            print(f"{head}: time grows as the number of classes to the power {exponent:.2f}")
    if arguments.json:
        records.write_record(records.make_record(rows, exponents=exponents), arguments.json)
    if arguments.plot:
        crossed = growth.crossover(rows) if {"full", "ann"} <= set(exponents) else 0.0
        plots.save_figure(plots.growth_curves(rows, crossed), arguments.plot)


def add_training(commands) -> None:
    """Add the command to the sub-parsers ``commands``."""
    parser = subcommand(
        commands,
        "training",
        _training,
        "whole steps of training a second, backbone included, for very many classes",
        "annsoftmax bench training --classes 600000 1000000 --rates 0.1 0.01",
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[600_000, 1_000_000])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.01])
    parser.add_argument("--heads", nargs="+", default=list(training.HEADS), choices=list(STEPS))
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help="of all matrix products; as in step")
    parser.add_argument(
        "--groups",
        type=int,
        help="active sets per batch, of every head but full and random_dense; default: by the rule",
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument(
        "--backbone", default="small", choices=list(training.BACKBONES), help="the tables', or one of usual size"
    )
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def _training(arguments) -> None:
    for name in ("batch", "rounds", "dim"):
        check_positive_int(name, getattr(arguments, name))
    sizes = [check_positive_int("classes", size) for size in arguments.classes]
    rates = [check_rate(rate) for rate in arguments.rates]
    options = read_options(arguments.options)
    check_options(arguments.heads, min(rates), arguments.groups, options)
    device, quiet = find_device(arguments.device), arguments.json == "-"
    rows: list[dict] = []

    def announce(head: str, rate: float, ms: float) -> None:
        print(f"{head} at a rate of {rate:g}: about {ms:.0f} ms a step", flush=True)

    try:
        for size in sizes:
            if not quiet:
                print(f"{size:,} classes", flush=True)
            rows += training.bench_training(
                size,
                rates,
                arguments.heads,
                half_of(arguments.precision, device),
                arguments.rounds,
                dim=arguments.dim,
                batch=arguments.batch,
                groups=arguments.groups,
                device=device,
                on_head=None if quiet else announce,
                backbone=arguments.backbone,
                **options,
            )
    finally:  # an error or an interruption does not take the sizes before it
        if rows:
            _tell(rows, training.table, arguments.json, device)


def add_searches(commands) -> None:
    """Add the command to the sub-parsers ``commands``."""
    parser = subcommand(
        commands,
        "searches",
        _searches,
        "a step of every way to choose classes, with one active set and with groups, rebuilding spread over the steps",
        "annsoftmax bench searches --classes 20000 200000 --rates 0.05 0.005",
    )
    parser.add_argument("--classes", type=int, nargs="+", default=[20_000])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.05, 0.005])
    parser.add_argument("--heads", nargs="+", default=list(searches.HEADS), choices=list(searches.HEADS))
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help="of the matrix products; as in step")
    add_options(parser)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=15)


def _searches(arguments) -> None:
    for name in ("batch", "rounds"):
        check_positive_int(name, getattr(arguments, name))
    sizes = [check_positive_int("classes", size) for size in arguments.classes]
    rates = [check_rate(rate) for rate in arguments.rates]
    options = read_options(arguments.options)
    check_options(arguments.heads, min(rates), None, options)
    quiet = arguments.json == "-"
    half = half_of(arguments.precision, torch.device("cpu"))
    rows: list[dict] = []

    def announce(row: dict) -> None:
        sets = f", {row['groups']} active sets" if row["groups"] else ""
        print(
            f"{row['classes']:,} classes, rate {row['rate']:g}: {row['head']}{sets}: {row['ms']:.1f} ms a step, of it "
            f"{row['rebuilding_ms']:.1f} rebuilding",
            flush=True,
        )

    try:
        for size in sizes:
            rows += searches.bench_searches(
                size,
                rates,
                arguments.heads,
                half,
                arguments.rounds,
                batch=arguments.batch,
                on_row=None if quiet else announce,
                **options,
            )
    finally:  # an error or an interruption does not take the sizes before it
        if rows:
            _tell(rows, searches.table, arguments.json)
