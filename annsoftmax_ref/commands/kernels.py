"""``annsoftmax bench kernels | compile``: the arguments, and the records they end in."""

from __future__ import annotations

from annsoftmax_ref.bench import kernels
from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.commands.parser import subcommand
from annsoftmax_ref.experiments import records
from annsoftmax_ref.machine import find_device
from kernels_inline.build import BuildError
from kernels_inline.cuda import resources


def add_kernels(commands) -> None:
    """Add ``bench kernels`` to the sub-parsers ``commands``."""
    parser = subcommand(
        commands,
        "kernels",
        _kernels,
        "every version of every CUDA kernel: time and rate on a GPU, memory accesses counted without one",
        "annsoftmax bench kernels --kernels flat_map ivf_scan",
    )
    parser.add_argument("--kernels", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--sizes", default="large", choices=["large", "small"], help="of the timing on a GPU")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")


def _kernels(arguments) -> None:
    check_positive_int("rounds", arguments.rounds)
    device, quiet = find_device(arguments.device), arguments.json == "-"
    rows: list[dict] = []
    most: dict = {}

    def keep(row: dict) -> None:
        rows.append(row)
        if not quiet:
            time = "" if row["ms_median"] is None else f", {row['ms_median']:.3f} ms"
            print(f"{row['kernel']}_{row['version']}: {row['wrong'] or 'right'}{time}", flush=True)

    try:
        if device.type == "cuda":
            most = kernels.ceilings(device)
        kernels.bench_kernels(device, most, arguments.kernels, arguments.rounds, arguments.sizes, keep)
    except BuildError as error:
        raise ValueError(str(error)) from error
    finally:  # an error or an interruption does not take what was measured before it
        if rows and not quiet:
            print("\n" + kernels.table(rows, most))
        if rows and arguments.json:
            records.write_record(records.make_record(rows, device, ceilings=most), arguments.json)
    wrong = [f"{row['kernel']}_{row['version']}" for row in rows if row["wrong"]]
    if wrong:
        raise ValueError(f"the results of {', '.join(wrong)} are not the expected ones")


def add_compile(commands) -> None:
    """Add ``bench compile`` to the sub-parsers ``commands``."""
    subcommand(
        commands,
        "compile",
        _compile,
        "registers and spills of every CUDA kernel on every architecture, by nvcc or NVRTC; needs no GPU",
        "annsoftmax bench compile --json results/cuda/compile.json",
    )


def _compile(arguments) -> None:
    try:
        found = resources.compile_all()
    except BuildError as error:
        raise ValueError(str(error)) from error
    if arguments.json != "-":
        print(f"{found['compiler']}\n\n{resources.table(found['rows'])}")
    if arguments.json:
        records.write_record(records.make_record(**found), arguments.json)
