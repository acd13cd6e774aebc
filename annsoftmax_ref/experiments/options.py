"""What the options of NearestClasses bring: its index, and what goes beyond the paper."""

from __future__ import annotations

from itertools import product

from annsoftmax_ref.experiments.reports import Cells, listing, parts, percent, plain
from annsoftmax_ref.experiments.settings import GLYPHS, PAIRS, seeded

INDEXES = {
    "1 list probed": {"nprobe": 1},
    "4 lists probed": {"nprobe": 4},
    "default (24 lists), not re-ranked": {"rerank": False},
    "default (24 lists)": {},
    "all 128 lists probed": {"nprobe": 128},
}


def recall_cells() -> dict:
    options = {name: kind | {"far": False} for name, kind in INDEXES.items()}
    return {(name,): seeded(head="ann", rate=0.01, options=kind, **PAIRS) for name, kind in options.items()}


BEYOND = {
    "default": {},
    "active classes alone": {"far": False},
    "active classes alone, groups at random": {"far": False, "grouping": "random"},
    "uniform tail, a tenth": {"tail": 0.1},
    "uniform tail, half": {"tail": 0.5},
    "priority sampling": {"priority": True},
    "active classes alone, budget for 90 % of the mass": {"far": False, "mass_target": 0.9},
}
BEYOND_TASKS = {
    "20,000 pairs, 1/100": {"rate": 0.01, **PAIRS},
    "glyphs, cross entropy, 1/10": {"objective": "cross_entropy", **GLYPHS},
}


def beyond_cells() -> dict:
    return {
        (task, option): seeded(head="ann", options=kind, **fields)
        for (task, fields), (option, kind) in product(BEYOND_TASKS.items(), BEYOND.items())
    }


SELECTION = {
    "top-1, %": percent("accuracy"),
    "recall, %": percent("recall"),
    "mass, %": percent("captured_mass"),
    "gradient error": plain("gradient_error", ".2f"),
}
BUDGET = {"classes scored, %": percent("active_share")}


def report_recall(cells: Cells) -> str:
    return listing(cells, SELECTION, "index")


def report_beyond(cells: Cells) -> str:
    return "\n\n".join(
        f"{task}:\n\n{listing(part, SELECTION | BUDGET, 'option')}" for task, part in parts(cells, 0).items()
    )
