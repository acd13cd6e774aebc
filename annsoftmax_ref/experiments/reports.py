"""Reports: rows as Markdown tables, means and spreads over seeds, and sentences that compare runs seed by seed.

A table's cells are a dict from labels, such as ("ann", "1/10"), to the rows of that cell's runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import mean, stdev

from annsoftmax_ref import evaluation

Rows = list[dict]
Cells = dict[tuple[str, ...], Rows]
Format = Callable[[Rows], str]

HELD = 0.5  # points that a sampling head may be behind full softmax
METRICS = {  # of a row's report, and their titles
    "accuracy": "accuracy",
    "top5": "top-5",
    "top10": "top-10",
    "head": "frequent",
    "middle": "middle",
    "tail": "rare",
    "recall_at_1": "recall@1",
    "recall_at_10": "recall@10",
    "recall_at_20": "recall@20",
    "ndcg_at_10": "NDCG@10",
    "mrr": "MRR",
    "best_recall_at_10": "best recall@10",
    "map": "mAP",
    "tar_at_far_1e-2": "TAR@FAR=1e-2",
    "tar_at_far_1e-3": "TAR@FAR=1e-3",
    "tar_at_far_1e-4": "TAR@FAR=1e-4",
    "fold_accuracy": "10 folds",
    "rank1": "rank-1",
    "precision_at_1": "P@1",
    "precision_at_3": "P@3",
    "precision_at_5": "P@5",
    "perplexity": "perplexity",
    "rank_correlation": "rank correlation",
    "pairs_known": "pairs known",
}
NO_SHARES = ("perplexity",)


def percent(name: str, sign: str = "") -> Format:
    """Mean and standard deviation over rows of a metric or a field, as a percentage; ``sign`` follows the mean."""

    def text(rows: Rows) -> str:
        values = numbers(rows, name)
        if not values:
            return "-"
        return f"{100 * mean(values):.1f}{sign}" + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "")

    return text


def plain(name: str, form: str = ".1f") -> Format:
    """The mean over rows of a metric or a field, as it is."""

    def text(rows: Rows) -> str:
        values = numbers(rows, name)
        return format(mean(values), form) if values else "-"

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


# By how many standard errors a mean of 2, 3, ... differences has to be off 0 for Student's t-test at 5 % to tell;
# for more than ten the last of them, which is a little strict.
STANDARD_ERRORS = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
HOW_TOLD = (
    "Differences are between runs of the same seed: their mean ± their standard deviation. Heads are told apart by a "
    "paired t-test at 5 %; with so few pairs, those that are not may still differ."
)


@dataclass(frozen=True)
class Gap:
    """How far runs are above others of the same seeds, in points: the differences' mean and standard deviation."""

    mean: float
    spread: float
    pairs: int

    @property
    def told_apart(self) -> bool:
        """By Student's t-test of the differences at 5 %; a single one tells nothing."""
        if self.pairs < 2:
            return False
        bar = STANDARD_ERRORS[min(self.pairs - 2, len(STANDARD_ERRORS) - 1)]
        return abs(self.mean) > bar * self.spread / self.pairs**0.5

    def __str__(self) -> str:
        return f"{abs(self.mean):.1f}" + (f" ± {self.spread:.1f}" if self.pairs > 1 else "")


def paired_gap(ours: Rows, theirs: Rows, metric: str) -> Gap | None:
    """The rows' metric (or field) against that of the rows with the same seed; None where no two share a seed."""
    first, second = (
        {row["seed"]: number for row in rows for number in numbers([row], metric)} for rows in (ours, theirs)
    )
    differences = [100 * (first[seed] - second[seed]) for seed in first if seed in second]
    if not differences:
        return None
    return Gap(mean(differences), stdev(differences) if len(differences) > 1 else 0.0, len(differences))


def gaps(cells: Cells, metric: str, ours: str = "ann", rivals: Iterable[str] | None = None) -> str:
    """A sentence on how ``ours`` stands to other first labels (None: to all), whichever way it went; "" if to none."""
    rows = {labels[0]: found for labels, found in cells.items()}
    against = [name for name in rivals or rows if name != ours and name in rows]
    measured = {name: paired_gap(rows.get(ours, []), rows[name], metric) for name in against}
    known = {name: gap for name, gap in measured.items() if gap is not None}
    if not known:
        return ""
    told, level = [], []
    for name, gap in known.items():
        side = "ahead" if gap.mean >= 0 else "behind"
        if gap.told_apart or gap.pairs == 1:
            told.append(f"{gap} {side}{' of' if side == 'ahead' else ''} {name}")
        else:
            level.append(f"{name} ({gap} {side})")
    clauses = [", ".join(told)] if told else []
    if level:
        clauses.append(f"not told apart from {', '.join(level)}")
    pairs = sorted({gap.pairs for gap in known.values()})
    return f"{ours} is {'; '.join(clauses)}, in points over {' or '.join(map(str, pairs))} pair{'s'[: pairs[-1] > 1]}."


def held(cells: Cells, ours: str, metric: str) -> str:
    """A sentence on whether a head holds full softmax, whichever way it went; "" before both were run."""
    gap = paired_gap(cells[(ours,)], cells[("full",)], metric)
    if gap is None:
        return ""
    does = "holds" if gap.mean >= -HELD else "does not hold"
    off = f"it is {gap} {'ahead' if gap.mean >= 0 else 'behind'}, over {gap.pairs} pair{'s'[: gap.pairs > 1]}"
    return f"{ours} {does} full softmax within {HELD} points of {METRICS.get(metric, metric)}: {off}."


COLUMNS = {
    "loss": plain("loss", ".2f"),
    "mass": plain("captured_mass", ".0%"),
    "recall": plain("recall", ".0%"),
    "seconds": plain("seconds", ".0f"),
    "head ms/step": plain("head_ms"),
    "peak MB": plain("peak_mb", ".0f"),
}


def comparison(rows: Rows) -> str:
    """Rows of ``compare`` as a table, means over seeds, with a sentence for each objective on what it shows.

    The columns of the report are those that the rows have: of classification, or of embedding learning.
    """
    known = dict.fromkeys(name for row in rows for name, value in row["metrics"].items() if value is not None)
    reported = sorted(known, key=lambda name: (":" in name, list(METRICS).index(name) if name in METRICS else 0))
    shown = {_title(name): plain(name) if name in NO_SHARES else percent(name, "%") for name in reported}
    formats = shown | COLUMNS
    cells: Cells = {}
    for row in rows:
        cells.setdefault((row["head"], row["objective"]), []).append(row)
    lines = [
        [objective, head, f"{group[0]['rate']:.0%}", str(len(group)), *(text(group) for text in formats.values())]
        for (head, objective), group in cells.items()
    ]
    return "\n".join([grid(["objective", "head", "classes scored", "seeds", *formats], lines), "", *findings(cells)])


def findings(cells: Cells) -> list[str]:
    """How ann stands to full and to random, a sentence for each objective: cells (head, objective)."""
    rows = [row for group in cells.values() for row in group]
    measure = headline_title(rows[0])
    sentences = {
        objective: gaps(part, "accuracy", rivals=("full", "random")) for objective, part in parts(cells, 1).items()
    }
    told = [f"{objective}, {measure}: {sentence}" for objective, sentence in sentences.items() if sentence]
    return told + [HOW_TOLD] * bool(told and len({row["seed"] for row in rows}) > 1)


def headline_title(row: dict) -> str:
    """What the row's ``accuracy`` is: "accuracy", or "recall@1" for unseen classes, "P@1" for several a sample."""
    return METRICS[evaluation.headline(row["metrics"])]


def _title(name: str) -> str:
    """Of a number of the report; "lfw:fold_accuracy" is that of a verification set."""
    of, _, kind = name.rpartition(":")
    return f"{of} {METRICS[kind]}".strip()
