"""What the head's numbers are kept in, and what that does to its accuracy."""

from __future__ import annotations

from itertools import product

from annsoftmax_ref.experiments.reports import HOW_TOLD, Cells, gaps, listing, parts, percent
from annsoftmax_ref.experiments.runs import STORAGES
from annsoftmax_ref.experiments.settings import GLYPHS, PAIRS, seeded

HEADS = ("full", "ann")
TASKS = {"20,000 pairs, 1/50": {"rate": 0.02, **PAIRS}, "glyphs, 1/10": {"rate": 0.1, **GLYPHS}}


def storage_cells() -> dict:
    """Cells (task, head, storage)."""
    return {
        (task, head, storage): seeded(head=head, storage=storage, **fields)
        for (task, fields), head, storage in product(TASKS.items(), HEADS, STORAGES)
    }


def report_storage(cells: Cells) -> str:
    lines = {(", ".join(labels),): rows for labels, rows in cells.items()}
    table = listing(lines, {"top-1, %": percent("accuracy")}, "task, head, storage")
    told = []
    for (task, part), head in product(parts(cells, 0).items(), HEADS):
        kept = {(storage,): rows for (_, name, storage), rows in part.items() if name == head}
        others = [ours for ours in STORAGES if ours != "fp32"]
        told += [f"{task}, {head}: {gaps(kept, 'accuracy', ours, ['fp32'])}" for ours in others]
    return "\n\n".join([table, *told, HOW_TOLD])
