"""Plots of records: pure functions from rows to a matplotlib Figure."""

from __future__ import annotations

import os
from statistics import mean

from matplotlib.figure import Figure

from annsoftmax_ref.experiments.compare import headline_title
from annsoftmax_ref.machine.files import replacing

# Okabe and Ito's colours, told apart by the colour-blind; a marker each, for print without colour.
STYLES = {
    "full": ("#000000", "o", "-"),
    "random": ("#E69F00", "s", "--"),
    "ann": ("#0072B2", "^", "-"),
    "lsh": ("#009E73", "D", "-."),
    "forest": ("#CC79A7", "v", ":"),
    "knn": ("#D55E00", "P", "--"),
}
OTHERS = [("#56B4E9", "X", "-"), ("#F0E442", "*", "-."), ("#56B4E9", "<", ":"), ("#F0E442", ">", "--")]


def accuracy_curves(rows: list[dict]) -> Figure:
    """Rows of ``compare`` (one objective): accuracy (or what stands for it) against epochs and against seconds."""
    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained", facecolor="white")
    by_epoch, by_second = figure.subplots(1, 2, sharey=True)
    heads = list(dict.fromkeys(row["head"] for row in rows))
    for head in heads:
        colour, marker, line = STYLES.get(head) or OTHERS[heads.index(head) % len(OTHERS)]
        runs = [row["history"] for row in rows if row["head"] == head]
        epochs = [[epoch[name] for epoch in runs[0]] for name in ("epoch",)][0]
        accuracy = [100 * mean(run[i]["accuracy"] for run in runs) for i in range(len(epochs))]
        seconds = [mean(run[i]["seconds"] for run in runs) for i in range(len(epochs))]
        for axes, x in ((by_epoch, epochs), (by_second, seconds)):
            axes.plot(x, accuracy, color=colour, marker=marker, linestyle=line, label=f"{head} {accuracy[-1]:.1f} %")
    by_epoch.set(xlabel="epoch", ylabel=f"{headline_title(rows[0])}, % of held-out samples")
    by_second.set(xlabel="seconds of training")
    first = rows[0]
    seeds = len({row["seed"] for row in rows})
    figure.suptitle(f"{first['num_classes']:,} classes, {first['objective']}, mean of {seeds} seed{'s'[: seeds > 1]}")
    for axes in (by_epoch, by_second):
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    return figure


def upkeep_curves(rows: list[dict]) -> Figure:
    """Rows of ``bench upkeep``: recall of the live index and of one made anew, and the age of the codes."""
    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained", facecolor="white")
    recall, age = figure.subplots(1, 2)
    steps = [row["step"] for row in rows]
    for field, label, (colour, marker, line) in (
        ("recall", "follows the weights", STYLES["ann"]),
        ("recall_rebuilt", "made anew at each look", STYLES["random"]),
    ):
        recall.plot(steps, [100 * row[field] for row in rows], color=colour, marker=marker, linestyle=line, label=label)
    recall.set(xlabel="step", ylabel="recall of the 50 nearest classes, %", ylim=(0, 100))
    recall.legend(loc="lower right")
    age.plot(steps, [row["code_age"] for row in rows], color=STYLES["full"][0], marker="o")
    age.set(xlabel="step", ylabel="mean age of a code, steps", ylim=(0, None))
    for axes in (recall, age):
        axes.grid(alpha=0.3)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """To ``path`` (format by its ending), whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary)
