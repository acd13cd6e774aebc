"""Plots of records and of tables: pure functions from rows, or cells of rows, to a matplotlib Figure."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import mean, stdev

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from annsoftmax_ref.experiments.figures import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY, YELLOW, new_figure
from annsoftmax_ref.experiments.reports import Cells, headline_title, numbers, parts
from annsoftmax_ref.machine.files import check_writable, replacing

# Of each head: a marker and a line of its own, too, for print without colour.
STYLES = {
    "full": (BLACK, "o", "-"),
    "random": (ORANGE, "s", "--"),
    "ann": (BLUE, "^", "-"),
    "lsh": (GREEN, "D", "-."),
    "forest": (PINK, "v", ":"),
    "knn": (RED, "P", "--"),
}
OTHERS = [(SKY, "X", "-"), (YELLOW, "*", "-."), (SKY, "<", ":"), (YELLOW, ">", "--")]
ENDINGS = sorted(FigureCanvasBase.get_supported_filetypes())


def accuracy_curves(rows: list[dict]) -> Figure:
    """Rows of ``compare`` (one objective): accuracy (or what stands for it) against epochs and against seconds."""
    figure, (by_epoch, by_second) = new_figure(10, 4, columns=2, sharey=True)
    heads = list(dict.fromkeys(row["head"] for row in rows))
    for head in heads:
        style = STYLES.get(head) or OTHERS[heads.index(head) % len(OTHERS)]
        runs = [row["history"] for row in rows if row["head"] == head]
        epochs = [epoch["epoch"] for epoch in runs[0]]
        accuracy = [100 * mean(run[i]["accuracy"] for run in runs) for i in range(len(epochs))]
        seconds = [mean(run[i]["seconds"] for run in runs) for i in range(len(epochs))]
        for axes, x in ((by_epoch, epochs), (by_second, seconds)):
            _line(axes, x, accuracy, style, f"{head} {accuracy[-1]:.1f} %")
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
    figure, (recall, age) = new_figure(10, 4, columns=2)
    steps = [row["step"] for row in rows]
    for field, label, style in (
        ("recall", "follows the weights", STYLES["ann"]),
        ("recall_rebuilt", "made anew at each look", STYLES["random"]),
    ):
        _line(recall, steps, [100 * row[field] for row in rows], style, label)
    recall.set(xlabel="step", ylabel="recall of the 50 nearest classes, %", ylim=(0, 100))
    recall.legend(loc="lower right")
    age.plot(steps, [row["code_age"] for row in rows], color=BLACK, marker="o")
    age.set(xlabel="step", ylabel="mean age of a code, steps", ylim=(0, None))
    for axes in (recall, age):
        axes.grid(alpha=0.3)
    return figure


def recall_curves(rows: list[dict], fronts: list[dict]) -> Figure:
    """Rows of ``bench search``: recall against time, a dot a setting; fronts: those that a line joins, by index."""
    figure, axes = _one(
        f"milliseconds to search {rows[0]['batch']} queries", f"recall of the {rows[0]['k']} nearest, %"
    )
    styles = [*STYLES.values(), *OTHERS]
    for name, style in zip(dict.fromkeys(row["index"] for row in rows), styles, strict=False):
        dots, front = ([row for row in part if row["index"] == name] for part in (rows, fronts))
        axes.scatter([row["ms"] for row in dots], [100 * row["recall"] for row in dots], 4, style[0], alpha=0.3)
        _line(axes, [row["ms"] for row in front], [100 * row["recall"] for row in front], style, name)
    axes.set(xscale="log", ylim=(0, 101), title=f"{rows[0]['classes']:,} rows of {rows[0]['dim']} numbers")
    axes.legend(fontsize="small")
    return figure


def growth_curves(rows: list[dict], crossed: float) -> Figure:
    """Rows of ``bench growth``: a step's time against the number of classes, a line a head; crossed: where ann's and
    full's meet, marked if it lies between the sizes."""
    figure, axes = _one("classes", "milliseconds a step of the head")
    sizes = sorted({row["classes"] for row in rows})
    for head in dict.fromkeys(row["head"] for row in rows):
        points = sorted((row["classes"], row["ms_median"]) for row in rows if row["head"] == head)
        _line(axes, *zip(*points, strict=True), STYLES.get(head, OTHERS[0]), head)
    if sizes[0] < crossed < sizes[-1]:
        axes.axvline(crossed, color=BLACK, linestyle=":", label=f"equal at about {float(f'{crossed:.2g}'):,.0f}")
    axes.set(xscale="log", yscale="log", title=f"batch {rows[0]['batch']}, {rows[0]['dim']} numbers a class")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.xaxis.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.minorticks_off()
    axes.legend()
    return figure


def rate_curves(cells: Cells) -> Figure:
    """Cells (head, "1/10"): top-1 against the share of classes scored, a line a head; full softmax is level."""
    figure, axes = _one("share of the classes that are scored", "top-1, %")
    for head, part in parts(cells, 0).items():
        points = [(row[0]["rate"], *_spread(row, "accuracy")) for row in part.values() if row]
        if head == "full":
            for _, value, _ in points:
                axes.axhline(value, color=BLACK, linestyle="-", linewidth=1, label="full")
        else:
            _spreads(axes, points, STYLES[head], head)
    axes.set_xscale("log")
    ticks = sorted(
        {rows[0]["rate"]: labels[1] for labels, rows in cells.items() if rows and labels[0] != "full"}.items()
    )
    axes.set_xticks([rate for rate, _ in ticks], [name for _, name in ticks])
    axes.minorticks_off()
    axes.legend()
    return figure


def cost_curves(title: str, panels: dict[str, dict[str, list[tuple[float, list[dict]]]]]) -> Figure:
    """Panels by their titles, of curves by head: points (milliseconds a step, rows), top-1 over time."""
    figure, axes = new_figure(10, 4.2, columns=len(panels), sharey=True)
    for panel, (name, curves) in zip(axes, panels.items(), strict=True):
        for head, points in curves.items():
            _spreads(panel, [(ms, *_spread(rows, "accuracy")) for ms, rows in points], STYLES[head], head)
        panel.set(xscale="log", xlabel="milliseconds a step of the head, with what is rebuilt", title=name)
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.minorticks_off()
        panel.set_ylabel("top-1, %")
        panel.grid(alpha=0.3)
    axes[-1].legend(loc="lower right")
    figure.suptitle(title)
    return figure


def group_curves(cells: Cells) -> Figure:
    """Cells (grouping, groups): top-1 and the share of the nearest classes recalled, against the number of groups."""
    figure, (accuracy, recall) = new_figure(10, 4, columns=2)
    styles = dict(zip(parts(cells, 0), (STYLES["random"], STYLES["ann"]), strict=False))
    for axes, name, title in ((accuracy, "accuracy", "top-1, %"), (recall, "recall", "nearest 50 classes recalled, %")):
        for grouping, part in parts(cells, 0).items():
            points = [(int(labels[1]), *_spread(rows, name)) for labels, rows in part.items() if rows]
            _spreads(axes, points, styles[grouping], grouping)
        axes.set_xscale("log", base=2)
        axes.set_xticks([int(groups) for groups in parts(cells, 1)], list(parts(cells, 1)))
        axes.set(xlabel="groups a batch, at a fixed number of classes scored", ylabel=title)
        axes.grid(alpha=0.3)
    accuracy.legend(title="groups of samples")
    return figure


def training_curves(cells: Cells) -> Figure:
    """Cells (head, ...): captured mass and gradient error against the step, means over seeds."""
    figure, panels = new_figure(10, 4, columns=2)
    titles = {"captured_mass": "captured mass, %", "gradient_error": "error of the gradient, %"}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for head, part in parts(cells, 0).items():
            series = [row["looks"][name] for rows in part.values() for row in rows]
            if head != "full" and series:
                values = [100 * mean(look) for look in zip(*series, strict=True)]
                _line(axes, [100 * (place + 1) for place in range(len(values))], values, STYLES[head], head)
        axes.set(xlabel="step", ylabel=title, ylim=(0, None))
        axes.grid(alpha=0.3)
    axes.legend()
    return figure


def recall_points(cells: Cells) -> Figure:
    """Cells (index,): top-1 against the share of the nearest classes that the index found while training."""
    figure, axes = _one("nearest 50 classes in the active set, %", "top-1, %")
    markers = ["o", "s", "^", "D", "v", "P", "X"]
    for marker, ((name,), rows) in zip(markers, cells.items(), strict=False):
        if rows:
            x, dx = _spread(rows, "recall")
            y, dy = _spread(rows, "accuracy")
            axes.errorbar([x], [y], [dy], [dx], marker=marker, linestyle="", capsize=2, label=name)
    axes.legend(fontsize="small")
    return figure


def check_figure_path(name: str, path: str | os.PathLike) -> None:
    """ValueError, in one sentence about the argument ``name``, if no figure can be saved there."""
    if Path(path).suffix.removeprefix(".").lower() not in ENDINGS:
        raise ValueError(f"{name} is {path}; it should end in one of .{', .'.join(ENDINGS)}")
    check_writable(name, path)


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """To ``path`` (format by its ending), whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _one(x: str, y: str):
    figure, axes = new_figure(7, 4.5)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def _line(axes, x, y, style, label: str) -> None:
    colour, marker, line = style
    axes.plot(x, y, color=colour, marker=marker, linestyle=line, label=label)


def _spreads(axes, points: list[tuple[float, float, float]], style, label: str) -> None:
    """A line through points (x, mean, deviation), with bars; nothing for none."""
    if points:
        colour, marker, line = style
        x, values, spreads = zip(*points, strict=True)
        axes.errorbar(x, values, spreads, color=colour, marker=marker, linestyle=line, capsize=2, label=label)


def _spread(rows: list[dict], name: str) -> tuple[float, float]:
    """Mean and standard deviation over rows of a metric or field, in percent."""
    values = [100 * value for value in numbers(rows, name)]
    return mean(values), stdev(values) if len(values) > 1 else 0.0
