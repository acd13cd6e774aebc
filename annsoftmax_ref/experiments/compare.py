"""Compare heads: the same network, data, recipe and seeds, and other classes that a batch is scored against."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import mean, stdev

from annsoftmax_ref import evaluation
from annsoftmax_ref.experiments import runs
from annsoftmax_ref.experiments.reports import grid
from annsoftmax_ref.experiments.runs import Run
from annsoftmax_ref.experiments.tasks import load_verification
from annsoftmax_ref.factory import DEFAULT_HEADS, make_head
from annsoftmax_ref.machine import find_device
from annsoftmax_ref.training import History


def compare(
    task: str = "glyphs",
    heads=DEFAULT_HEADS,
    objective: str = "cosface",
    rate: float = 0.1,
    groups: int | None = None,
    epochs: int | None = None,
    seeds=(0,),
    device: str = "auto",
    progress: bool = True,
    on_row: Callable[[dict], None] | None = None,
    on_epoch: Callable[[str, History], None] | None = None,
    verify=(),
) -> list[dict]:
    """Train every head with every seed; one row each, as DESIGN.md gives them, with the history of its epochs.

    accuracy, recall and captured_mass are fractions; recall and captured_mass are means over training, one look
    every ``runs.DIAGNOSE_EVERY`` steps. What does not apply to a head is None. metrics is the report of
    ``evaluation.evaluate`` after the last epoch; accuracy is its headline: top-1, or recall at 1 for unseen classes.
    verify: .bin files of pairs of faces (LFW, CFP-FP, ...) to test on as well; in metrics as "lfw:fold_accuracy".
    on_row is called with each new row, on_epoch with a head's name and its history so far.
    """
    place = str(find_device(device))
    options = {name: (("groups", groups),) if name == "ann" and groups is not None else () for name in heads}
    planned = [Run(task, name, objective, rate, seed, options[name], None, epochs) for seed in seeds for name in heads]
    for run in planned:  # a wrong name or rate is told before anything is trained
        make_head(run.head, 2, 2, objective, rate, **dict(run.options))
    verification = load_verification(verify, runs.load(task))
    rows = []
    for run in planned:
        row = runs.train(run, place, progress, on_epoch and partial(on_epoch, run.head), verification)
        rows.append(row | {"groups": row["options"].get("groups"), "epochs": len(row["history"])})
        if on_row is not None:
            on_row(rows[-1])
    return rows


COLUMNS = [
    ("loss", "loss", lambda v: f"{v:.2f}"),
    ("captured_mass", "mass", lambda v: f"{v:.0%}"),
    ("recall", "recall", lambda v: f"{v:.0%}"),
    ("seconds", "seconds", lambda v: f"{v:.0f}"),
    ("head_ms", "head ms/step", lambda v: f"{v:.1f}"),
    ("peak_mb", "peak MB", lambda v: f"{v:.0f}"),
]
METRICS = {  # of a row's report, and their titles
    "accuracy": "accuracy",
    "top5": "top-5",
    "head": "frequent",
    "middle": "middle",
    "tail": "rare",
    "recall_at_1": "recall@1",
    "recall_at_10": "recall@10",
    "map": "mAP",
    "tar_at_far_1e-2": "TAR@FAR=1e-2",
    "tar_at_far_1e-3": "TAR@FAR=1e-3",
    "tar_at_far_1e-4": "TAR@FAR=1e-4",
    "fold_accuracy": "10 folds",
    "rank1": "rank-1",
    "precision_at_1": "P@1",
    "precision_at_3": "P@3",
    "precision_at_5": "P@5",
}


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table, means over seeds, with a sentence for each objective on what it shows.

    The columns of the report are those that the rows have: of classification, or of embedding learning.
    """
    known = dict.fromkeys(name for row in rows for name, value in metrics_of(row).items() if value is not None)
    reported = sorted(known, key=lambda name: (":" in name, list(METRICS).index(name) if name in METRICS else 0))
    named = [*map(_title, reported), *(title for _, title, _ in COLUMNS)]
    titles = ["objective", "head", "classes scored", "seeds", *named]
    lines = []
    for (objective, head), group in _grouped(rows).items():
        cells = [objective, head, f"{group[0]['rate']:.0%}", str(len(group))]
        cells += [_fraction([metrics_of(row).get(name) for row in group]) for name in reported]
        for field, _, form in COLUMNS:
            values = [row[field] for row in group if row[field] is not None]
            cells.append(form(mean(values)) if values else "-")
        lines.append(cells)
    return "\n".join([grid(titles, lines), "", *findings(rows)])


def metrics_of(row: dict) -> dict[str, float | None]:
    """The row's report; of one recorded before there were reports, the accuracy."""
    return row.get("metrics") or {"accuracy": row["accuracy"]}


def headline_title(row: dict) -> str:
    """What the row's ``accuracy`` is: "accuracy", or "recall@1" for unseen classes, "P@1" for several a sample."""
    return METRICS[evaluation.headline(metrics_of(row))]


def _title(name: str) -> str:
    """Of a number of the report; "lfw:fold_accuracy" is that of a verification set."""
    of, _, kind = name.rpartition(":")
    return f"{of} {METRICS[kind]}".strip()


def _fraction(values: list[float | None]) -> str:
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    return f"{mean(values):.1%}" + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "")


def findings(rows: list[dict]) -> list[str]:
    """How ann stands to full and to random, a sentence each, whichever way it went."""
    measure = headline_title(rows[0])
    ending = "." if measure == "accuracy" else f" in {measure}."
    accuracy = {key: 100 * mean(row["accuracy"] for row in group) for key, group in _grouped(rows).items()}
    sentences = []
    for objective in dict.fromkeys(row["objective"] for row in rows):
        ann = accuracy.get((objective, "ann"))
        for other in ("full", "random"):
            against = accuracy.get((objective, other))
            if ann is not None and against is not None:
                word = "ahead of" if ann >= against else "behind"
                sentences.append(f"{objective}: ann is {abs(ann - against):.1f} points {word} {other}{ending}")
    return sentences


def _grouped(rows: list[dict]) -> dict[tuple[str, str], list[dict]]:
    groups: dict = {}
    for row in rows:
        groups.setdefault((row["objective"], row["head"]), []).append(row)
    return groups
