"""Reports: cells of rows as Markdown tables, means and spreads over seeds.

A table's cells are a dict from labels, such as ("ann", "1/10"), to the rows of that cell's runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import mean, stdev

Rows = list[dict]
Cells = dict[tuple[str, ...], Rows]
Format = Callable[[Rows], str]


def percent(name: str) -> Format:
    """Mean and standard deviation over rows of a metric or a field, as a percentage."""

    def text(rows: Rows) -> str:
        values = numbers(rows, name)
        if not values:
            return "-"
        return f"{100 * mean(values):.1f}" + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "")

    return text


def plain(name: str, digits: int = 1) -> Format:
    """The mean over rows of a metric or a field, as it is."""

    def text(rows: Rows) -> str:
        values = numbers(rows, name)
        return f"{mean(values):.{digits}f}" if values else "-"

    return text


def numbers(rows: Rows, name: str) -> list[float]:
    """The rows' metric of that name, or their field, where it applies."""
    values = (row["metrics"].get(name, row.get(name)) for row in rows)
    return [value for value in values if value is not None]


def grid(titles: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table, its columns aligned."""
    cells = [list(titles), *(list(line) for line in lines)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    form = "| " + " | ".join(f"{{:<{width}}}" for width in widths) + " |"
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([form.format(*cells[0]), rule, *(form.format(*line) for line in cells[1:])])


def cross(cells: Cells, text: Format, corner: str) -> str:
    """A table of one number: a line for each first label, a column for each second."""
    lines, columns = (list(dict.fromkeys(labels[place] for labels in cells)) for place in (0, 1))
    return grid(
        [corner, *columns], [[line, *(text(cells.get((line, column), [])) for column in columns)] for line in lines]
    )


def listing(cells: Cells, columns: dict[str, Format], corner: str) -> str:
    """A table of several numbers: a line for each (last) label, a column for each format by its title."""
    return grid(
        [corner, *columns], [[labels[-1], *(text(rows) for text in columns.values())] for labels, rows in cells.items()]
    )


def parts(cells: Cells, place: int) -> dict[str, Cells]:
    """Cells by their label at that place."""
    found: dict[str, Cells] = {}
    for labels, rows in cells.items():
        found.setdefault(labels[place], {})[labels] = rows
    return found


def gaps(cells: Cells, metric: str, ours: str = "ann") -> str:
    """A sentence on how far ``ours`` is from each other first label, by the mean of a metric: whichever way it went."""
    means = {labels[0]: 100 * mean(numbers(rows, metric)) for labels, rows in cells.items() if numbers(rows, metric)}
    if ours not in means or len(means) < 2:
        return ""
    differences = {name: means[ours] - value for name, value in means.items() if name != ours}
    told = [f"{abs(gap):.1f} {'ahead of' if gap >= 0 else 'behind'} {name}" for name, gap in differences.items()]
    return f"{ours} is {', '.join(told)}."
