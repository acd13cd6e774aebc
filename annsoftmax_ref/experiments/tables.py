"""Tables of the paper's shape: which runs each is made of, and what it shows of their rows.

``annsoftmax table NAME`` trains what is missing and prints the table. A cell is the mean over seeds with the standard
deviation. All tables share one store of rows (``annsoftmax_ref.experiments.runs``), so that no run is made twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

from matplotlib.figure import Figure

from annsoftmax_ref.experiments.clock import TIMED, converged_cells, needed, report_converged, report_seconds
from annsoftmax_ref.experiments.confirmed import confirmed_cells, report_confirmed
from annsoftmax_ref.experiments.crossed import crossed_cells, draw_crossed, report_crossed
from annsoftmax_ref.experiments.language import language_cells, report_language
from annsoftmax_ref.experiments.options import beyond_cells, recall_cells, report_beyond, report_recall
from annsoftmax_ref.experiments.plots import group_curves, rate_curves, recall_points, training_curves
from annsoftmax_ref.experiments.reports import (
    HOW_TOLD,
    METRICS,
    Cells,
    cross,
    gaps,
    held,
    listing,
    parts,
    percent,
)
from annsoftmax_ref.experiments.runs import Run, Store
from annsoftmax_ref.experiments.settings import (
    GLYPHS,
    HEADS,
    ITEMS,
    OBJECTIVES,
    PAIRS,
    RATES,
    UNSEEN,
    ZIPF,
    one_in,
    seeded,
)
from annsoftmax_ref.experiments.stored import report_storage, storage_cells


@dataclass(frozen=True)
class Table:
    """question: what it answers. cells: the runs of each cell by its labels. report: cells of rows -> Markdown.
    draw: cells of rows -> a plot, if the table has one. timed: its times mean something, if nothing else runs.
    needed: whether a run is wanted yet, given the store; None: all of them are."""

    question: str
    cells: dict[tuple[str, ...], list[Run]]
    report: Callable[[Cells], str]
    draw: Callable[[Cells], Figure] | None = None
    timed: bool = False
    needed: Callable[[Run, Store], bool] | None = None

    @property
    def runs(self) -> list[Run]:
        return [run for runs in self.cells.values() for run in runs]

    def missing(self, store: Store) -> list[Run]:
        """What is to be trained for it next."""
        return [run for run in store.missing(self.runs) if self.needed is None or self.needed(run, store)]

    def found(self, store: Store) -> Cells:
        """The cells with the rows that the store has of them."""
        return {labels: [store.rows[run] for run in runs if run in store.rows] for labels, runs in self.cells.items()}

    def render(self, store: Store) -> str:
        """The report of what the store has; cells without rows are blank."""
        return self.report(self.found(store))


def head_cells(**fields) -> dict:
    return {
        (head, objective): seeded(head=head, objective=objective, **fields)
        for head, objective in product(HEADS, OBJECTIVES)
    }


# Telling unseen classes apart by a threshold wants classes that are far away: with nothing that stands for them, and
# with a weighted sample of them instead of the lists' mean rows.
FAR_AWAY = {"ann, far=False": {"far": False}, "ann, priority": {"priority": True, "groups": 16}}


def embedding_cells() -> dict:
    others = {
        (name, objective): seeded(head="ann", objective=objective, options=options, **UNSEEN)
        for (name, options), objective in product(FAR_AWAY.items(), OBJECTIVES)
    }
    return head_cells(**UNSEEN) | others


# All at one rate; a head more is a line more: its title, its name and its options.
ITEM_HEADS = {
    "full": ("full", {}),
    "random": ("random", {}),
    "random, log-q": ("logq", {"power": 0.0}),
    "by frequency, log-q": ("logq", {}),
    "forest": ("forest", {}),
    "ann": ("ann", {}),
    "ann, tail=0.5": ("ann", {"tail": 0.5}),
    "ann, priority": ("ann", {"priority": True}),
}


def item_cells() -> dict:
    return {(title,): seeded(head=head, options=options, **ITEMS) for title, (head, options) in ITEM_HEADS.items()}


def rate_cells() -> dict:
    sampled = {
        (head, one_in(rate)): seeded(head=head, rate=rate, **PAIRS)
        for head, rate in product(HEADS, RATES)
        if head != "full"
    }
    return {("full", "all"): seeded(head="full", **PAIRS)} | sampled


GROUPS = (1, 2, 4, 8, 16, 32)


def group_cells() -> dict:
    return {
        (grouping, str(groups)): seeded(
            head="ann", rate=0.01, options={"groups": groups, "grouping": grouping, "far": False}, **PAIRS
        )
        for grouping, groups in product(("random", "similar"), GROUPS)
    }


def second_cells() -> dict:
    heads = {"full": {}, "random": {}, "ann": {"far": False}}
    return {(head,): seeded(head=head, rate=0.01, options=options, **TIMED) for head, options in heads.items()}


def report_classification(cells: Cells) -> str:
    tables = [cross(cells, percent(name), f"{title}, %") for name, title in (("accuracy", "top-1"), ("top5", "top-5"))]
    sentences = (f"{name}: {gaps(part, 'accuracy')}" for name, part in parts(cells, 1).items())
    return "\n\n".join([*tables, *sentences, HOW_TOLD])


def report_embedding(cells: Cells) -> str:
    metrics = {"recall_at_1": "recall@1", "tar_at_far_1e-3": "TAR@FAR=1e-3", "rank1": "rank-1"}
    tables = [cross(cells, percent(name), f"{title}, %") for name, title in metrics.items()]
    return "\n\n".join([*tables, *(f"{name}: {_embedded(part)}" for name, part in parts(cells, 1).items()), HOW_TOLD])


def _embedded(cells: Cells) -> str:
    """On the heads of one objective: neighbours, and one threshold for all pairs."""
    near = gaps(cells, "recall_at_1", rivals=("full", "random"))
    far = gaps(cells, "tar_at_far_1e-3", rivals=("full", "random", *FAR_AWAY))
    return f"in recall@1 {near} In TAR@FAR=1e-3 {far}"


def report_frequency(cells: Cells) -> str:
    columns = {"top-1": "accuracy", "top-5": "top5", "head": "head", "middle": "middle", "tail": "tail"}
    table = listing(cells, {title: percent(name) for title, name in columns.items()}, "%")
    return "\n\n".join([table, f"top-1: {gaps(cells, 'accuracy')}", HOW_TOLD])


def report_items(cells: Cells) -> str:
    columns = {METRICS[name]: percent(name) for name in ("recall_at_10", "recall_at_20", "ndcg_at_10", "mrr")}
    table = listing(cells, columns, "%")
    best = percent("best_recall_at_10")([row for rows in cells.values() for row in rows[:1]][:1])
    ceiling = f"The best recall@10 that any model can be expected to reach on these test sessions: {best} %."
    searched = [title for title in ITEM_HEADS if title.startswith("ann")]
    told = [f"recall@10: {gaps(cells, 'recall_at_10', ours)} {held(cells, ours, 'recall_at_10')}" for ours in searched]
    return "\n\n".join([table, ceiling, *told, HOW_TOLD])


def report_rates(cells: Cells) -> str:
    full = {labels: rows for labels, rows in cells.items() if labels[0] == "full"}
    sampled = {labels: rows for labels, rows in cells.items() if labels[0] != "full"}
    table = cross(sampled, percent("accuracy"), "top-1, %")
    whole = "".join(f"full softmax: {percent('accuracy')(rows)} %." for rows in full.values())
    sentences = [f"{rate}: {gaps(full | part, 'accuracy')}" for rate, part in parts(sampled, 1).items()]
    return "\n\n".join([table, whole, *sentences, HOW_TOLD])


def report_groups(cells: Cells) -> str:
    formats = {"top-1, %": percent("accuracy"), "nearest 50 recalled, %": percent("recall")}
    return "\n\n".join(cross(cells, text, title) for title, text in formats.items())


def report_training(cells: Cells) -> str:
    """Captured mass and gradient error at three moments of training."""
    tables = []
    for name, title in (("captured_mass", "mass, %"), ("gradient_error", "gradient error, %")):
        looked: Cells = {}
        for (head, *_), rows in cells.items():
            for row in rows:
                steps = [100 * (place + 1) for place in range(len(row["looks"][name]))]
                for place in sorted({0, len(steps) // 2, len(steps) - 1}) if steps else ():
                    cell = looked.setdefault((head, f"step {steps[place]}"), [])
                    cell.append({"metrics": {}, name: row["looks"][name][place]})
        tables.append(cross(looked, percent(name), title))
    return "\n\n".join(tables)


def make_tables() -> dict[str, Table]:
    rates = rate_cells()
    return {
        "classification": Table(
            "How do heads and objectives compare at a tenth of 5,204 classes?",
            head_cells(**GLYPHS),
            report_classification,
        ),
        "embedding": Table(
            "And for characters that training never saw, at a tenth of 4,163 classes?",
            embedding_cells(),
            report_embedding,
        ),
        "frequency": Table(
            "Which classes lose when class sizes follow Zipf's law (CosFace, a tenth of the classes)?",
            {(head,): seeded(head=head, **ZIPF) for head in HEADS},
            report_frequency,
        ),
        "rates": Table(
            "How few classes are enough (CosFace, 20,000 pairs of characters)?", rates, report_rates, rate_curves
        ),
        "training": Table(
            "How much of the softmax does each head see while it trains (20,000 pairs, 1/50)?",
            {labels: runs for labels, runs in rates.items() if labels[1] in ("all", "1/50")},
            report_training,
            training_curves,
        ),
        "groups": Table(
            "What do more groups bring with the same number of places (20,000 pairs, 1/100)?",
            group_cells(),
            report_groups,
            group_curves,
        ),
        "recall": Table(
            "Does a better index give a better model (20,000 pairs, 1/100)?",
            recall_cells(),
            report_recall,
            recall_points,
        ),
        "seconds": Table(
            "How many seconds to a given accuracy (50,000 pairs, 1/100)?",
            second_cells(),
            report_seconds,
            timed=True,
        ),
        "converged": Table(
            "And when full softmax is trained to its end (20,000 pairs, 1/10 and 1/50)?",
            converged_cells(),
            report_converged,
            timed=True,
            needed=needed,
        ),
        "items": Table(
            "Which item comes next in a session (cross entropy, a tenth of 5,000 items)?",
            item_cells(),
            report_items,
        ),
        "searches": Table(
            "What is the search's part, and what the groups' (pairs with CosFace, and a tenth of 5,204 classes)?",
            crossed_cells(),
            report_crossed,
            draw_crossed,
        ),
        "confirmed": Table(
            "Do seeds that chose no default say the same (a tenth of the classes; and 20,000 pairs)?",
            confirmed_cells(),
            report_confirmed,
        ),
        "storage": Table(
            "Does a head in 16 or 8 bits cost accuracy (CosFace; 20,000 pairs, and a tenth of 5,204 classes)?",
            storage_cells(),
            report_storage,
        ),
        "language": Table(
            "And when classes are words, and the next one is asked for (cross entropy, a tenth of 4,719 words)?",
            language_cells(),
            report_language,
        ),
        "beyond": Table("What do options beyond the paper bring?", beyond_cells(), report_beyond),
    }


TABLES = make_tables()
