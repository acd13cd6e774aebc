"""What the runs of the tables have in common: heads, objectives, seeds, and the recipes of the tasks."""

from __future__ import annotations

from annsoftmax_ref.experiments.runs import Run

STORE = "results/tables/runs.json"
SEEDS = (0, 1, 2)
FIVE = (*SEEDS, 3, 4)  # where heads are close
HEADS = ("full", "random", "lsh", "forest", "knn", "ann")
OBJECTIVES = ("cross_entropy", "cosface", "arcface", "dsoftmax")
RATES = (0.2, 0.05, 0.02, 0.005)
SMALL_RATES = RATES[1:]
# 20,000 classes, and batches that fit into 1/200 of them; an epoch is 1,250 steps.
PAIRS = {"task": "pairs:20000", "batch_size": 96, "epochs": 1}
# Fewer epochs than the recipe has: enough for full softmax to end well above 85 %, in under a minute a run.
ITEMS = {"task": "items", "objective": "cross_entropy", "epochs": 2}
GLYPHS, UNSEEN, ZIPF = ({"task": task, "epochs": 5} for task in ("glyphs", "glyphs:unseen", "glyphs:zipf"))


def seeded(seeds: tuple[int, ...] = SEEDS, **fields) -> list[Run]:
    """A run a seed; fields: ``Run``'s, its options as a dict."""
    options = tuple(fields.pop("options", {}).items())
    return [Run(seed=seed, options=options, **fields) for seed in seeds]


def one_in(rate: float) -> str:
    return f"1/{round(1 / rate)}"
