"""Plots of tables: pure functions from cells of rows (``experiments.reports``) to a matplotlib Figure."""

from __future__ import annotations

from statistics import mean, stdev

from matplotlib.figure import Figure

from annsoftmax_ref.experiments.plots import STYLES
from annsoftmax_ref.experiments.reports import Cells, numbers, parts


def rate_curves(cells: Cells) -> Figure:
    """Cells (head, "1/10"): top-1 against the share of classes scored, a line a head; full softmax is level."""
    figure, axes = _one("share of the classes that are scored", "top-1, %")
    for head, part in parts(cells, 0).items():
        colour, marker, line = STYLES[head]
        points = [(row[0]["rate"], *_spread(row, "accuracy")) for row in part.values() if row]
        if head == "full":
            for _, value, _ in points:
                axes.axhline(value, color=colour, linestyle=line, linewidth=1, label="full")
        elif points:
            rates, values, spreads = zip(*points, strict=True)
            axes.errorbar(rates, values, spreads, color=colour, marker=marker, linestyle=line, capsize=2, label=head)
    axes.set_xscale("log")
    ticks = sorted(
        {rows[0]["rate"]: labels[1] for labels, rows in cells.items() if rows and labels[0] != "full"}.items()
    )
    axes.set_xticks([rate for rate, _ in ticks], [name for _, name in ticks])
    axes.minorticks_off()
    axes.legend()
    return figure


def group_curves(cells: Cells) -> Figure:
    """Cells (grouping, groups): top-1 and the share of the nearest classes recalled, against the number of groups."""
    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained", facecolor="white")
    accuracy, recall = figure.subplots(1, 2)
    styles = dict(zip(parts(cells, 0), (STYLES["random"], STYLES["ann"]), strict=False))
    for axes, name, title in ((accuracy, "accuracy", "top-1, %"), (recall, "recall", "nearest 50 classes recalled, %")):
        for grouping, part in parts(cells, 0).items():
            colour, marker, line = styles[grouping]
            points = [(int(labels[1]), *_spread(rows, name)) for labels, rows in part.items() if rows]
            if points:
                groups, values, spreads = zip(*points, strict=True)
                axes.errorbar(
                    groups, values, spreads, color=colour, marker=marker, linestyle=line, capsize=2, label=grouping
                )
        axes.set_xscale("log", base=2)
        axes.set_xticks([int(groups) for groups in parts(cells, 1)], list(parts(cells, 1)))
        axes.set(xlabel="groups a batch, at a fixed number of classes scored", ylabel=title)
        axes.grid(alpha=0.3)
    accuracy.legend(title="groups of samples")
    return figure


def training_curves(cells: Cells) -> Figure:
    """Cells (head, ...): captured mass and gradient error against the step, means over seeds."""
    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained", facecolor="white")
    for axes, name, title in zip(
        figure.subplots(1, 2),
        ("captured_mass", "gradient_error"),
        ("captured mass, %", "error of the gradient, %"),
        strict=True,
    ):
        for head, part in parts(cells, 0).items():
            colour, marker, line = STYLES[head]
            series = [row["looks"][name] for rows in part.values() for row in rows]
            if head != "full" and series:
                values = [100 * mean(look) for look in zip(*series, strict=True)]
                steps = [100 * (place + 1) for place in range(len(values))]
                axes.plot(steps, values, color=colour, marker=marker, linestyle=line, label=head)
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


def _one(x: str, y: str):
    figure = Figure(figsize=(7, 4.5), dpi=100, layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def _spread(rows: list[dict], name: str) -> tuple[float, float]:
    """Mean and standard deviation over rows of a metric or field, in percent."""
    values = [100 * value for value in numbers(rows, name)]
    return mean(values), stdev(values) if len(values) > 1 else 0.0
