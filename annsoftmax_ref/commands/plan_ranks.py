"""``annsoftmax plan --ranks``: its arguments beside those of one card, and the plan as text."""

from __future__ import annotations

import argparse

from annsoftmax_ref.experiments.reports import grid
from annsoftmax_ref.global_order import MOST
from annsoftmax_ref.planning import communication
from annsoftmax_ref.planning.cluster import DAY, EPOCHS, SAMPLES, Cluster
from annsoftmax_ref.planning.ranks import NODE, whole_nodes

GB = 1e9


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """What a plan for several cards is asked for."""
    group = parser.add_argument_group("classes split over several GPUs; --batch is then that of all together")
    group.add_argument("--ranks", type=int, default=1, help="processes, each with a GPU and its share of the classes")
    group.add_argument("--samples", type=int, help=f"of the data set; default: {SAMPLES} a class")
    group.add_argument("--epochs", type=int, help=f"default: {EPOCHS}")
    group.add_argument(
        "--backbone-ms", type=float, metavar="MS", help="that a step takes beside the head's part; default: 0"
    )


def cluster_of(arguments: argparse.Namespace) -> Cluster | None:
    """The cluster asked for; None: one card. Raises ValueError."""
    given = {name: getattr(arguments, name) for name in ("samples", "epochs", "backbone_ms")}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.ranks == 1:
        for name, value in given.items():
            raise ValueError(f"{name} is {value} with one rank; days are planned for --ranks above 1")
        return None
    return Cluster(arguments.ranks, arguments.gpu, arguments.beside, **given)


def report_of_cluster(row: dict) -> str:
    """The plan as text."""
    return "\n\n".join(
        [_subject(row), _memory(row), _bytes(row), _times(row), _verdict(row), _smallest(row), _rests_on(row)]
    )


def _subject(row: dict) -> str:
    return (
        f"{row['classes']:,} classes of {row['dim']} numbers in {row['storage']}, {row['optimizer']}, over "
        f"{row['ranks']} GPUs, {row['rows']:,} on each; batches of {row['batch']:,} of all together: {row['sets']} x "
        f"{row['active']:,} active classes, {row['active_here']:,} of them on each GPU"
    )


def _memory(row: dict) -> str:
    moment = max(row["step"], key=row["step"].get)
    parts = row["kept"] | {
        "everybody's samples in a step": row["gathered"],
        f"beside it in a step, at most ({moment})": row["step"][moment] - row["gathered"],
        "**all**": row["total"],
    }
    return grid(["memory of a GPU", "GB"], [[part, f"{count / GB:.3f}"] for part, count in parts.items()])


def _bytes(row: dict) -> str:
    lines = [[name, f"{count:,}", f"{row['exchange_ms'][name]:.3f}"] for name, count in row["received"].items()]
    total = ["**all**", f"{sum(row['received'].values()):,}", f"{sum(row['exchange_ms'].values()):.3f}"]
    return grid(["received by each GPU in a step", "bytes", "ms, by a model"], [*lines, total])


def _times(row: dict) -> str:
    stages = row["stages_ms"] | {"sent and received": sum(row["exchange_ms"].values())}
    if row["backbone_ms"]:
        stages["backbone, as given"] = row["backbone_ms"]
    stages |= {"**all**": row["step_ms"], "an exact softmax, fused": row["full_ms"]}
    return grid([f"stage, by a model for {row['gpu']}", "ms"], [[name, f"{ms:.3f}"] for name, ms in stages.items()])


def _verdict(row: dict) -> str:
    fits = "fits" if row["total"] <= row["room"] else "does NOT fit"
    backbone = f"with a backbone of {row['backbone_ms']:g} ms" if row["backbone_ms"] else "of the head's part alone"
    each = row["samples"] / row["classes"]
    more = row["steps"] / DAY  # days that a millisecond a step makes
    return (
        f"{row['total'] / GB:.1f} GB {fits} into {row['room'] / GB:.1f} GB ({row['gpu']}, {row['beside_gib']:g} GiB "
        f"left to others); about {row['largest']:,} classes would.\n"
        f"{row['ranks']} GPUs, {row['days']:.2f} days {backbone}: {row['steps']:,} steps, {row['epochs']} epochs over "
        f"{row['samples']:,} samples ({each:.3g} a class). Each further millisecond a step makes {more:.2g} days more."
    )


def _smallest(row: dict) -> str:
    lines = [[storage, *map(_machines, few.values())] for storage, few in row["smallest"].items()]
    each = max(1, row["batch"] // row["ranks"])
    return grid(
        [f"the fewest {row['gpu']} that hold it", f"batches of {row['batch']:,}", f"{each:,} samples a GPU"], lines
    )


def _machines(gpus: int | None) -> str:
    if gpus is None:
        return "none"
    nodes = whole_nodes(gpus)
    return f"{gpus}, {nodes} machine{'s' * (nodes > 1)} of {NODE}"


def _rests_on(row: dict) -> str:
    link = communication.LINKS[row["gpu"]]
    rate = link.inside if row["ranks"] <= NODE else link.between
    by_need = ""
    if "order" in row["received"]:
        by_need = f" Places go by need: a GPU may have up to {MOST} times its {row['active_here']:,}, for some steps."
    return (
        "What it rests on. Memory and bytes are counted; results/cpu/capacity.json has what heads took beside the "
        "count, results/cluster/simulated_256.json 256 processes simulated. Times are a model by data sheets, "
        f"{rate:g} GB/s a GPU for what is sent, {communication.REACHED:.0%} of it reached (assumed), NCCL's own "
        f"latencies, {communication.HOST:g} us a hop between hosts for the header (assumed). No time has been measured "
        "on a GPU, and nothing is taken to overlap." + by_need
    )
