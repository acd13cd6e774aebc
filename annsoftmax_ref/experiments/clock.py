"""Tables by the clock: seconds of training to equal accuracies, of runs with the machine for themselves."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from statistics import mean

from annsoftmax_ref.experiments.reports import (
    HOW_TOLD,
    Cells,
    Format,
    Rows,
    gaps,
    listing,
    numbers,
    paired_gap,
    parts,
    percent,
    plain,
)
from annsoftmax_ref.experiments.runs import Run, Store
from annsoftmax_ref.experiments.settings import one_in

# Large enough for the head to be most of a step's time, and looked at every 100 steps.
TIMED = {"task": "pairs:50000", "epochs": 12, "steps": 100}
# So few classes that full softmax can be trained to its end, at two learning rates and with three seeds, in minutes.
CONVERGED = {"task": "pairs:20000", "steps": 100}
EPOCHS = 15
LEARNING_RATES = (0.8, 1.6)  # the recipe's, chosen for full softmax in shorter runs, and twice that
SAMPLED = {"random": {}, "random_dense": {}, "forest": {"groups": "rule"}, "ann": {}}  # heads and their options
RATES = (0.1, 0.02)  # a hundredth of these classes is 200, fewer than the labels of a batch
SEEDED = ("full", "ann")  # with three seeds, the others with one
FULL, CHECK, CHECK_SEED = ("full", "all"), ("full, twice the steps", "all"), 1
BELOW = (10, 5, 1)  # points below where full softmax ends: at these accuracies the clock is read
LEVEL = 0.5  # points: what more steps may still bring to a head that is trained to its end
STAGES = {"prepare": "prepare", "select": "select", "forward": "forward", "backward": "backward and update"}


def seconds_to(row: dict, accuracy: float) -> float | None:
    """Seconds of training until the test accuracy first stood there, in a straight line between two looks."""
    before = (0.0, 0.0)
    for epoch in row["history"]:
        now = (epoch["seconds"], epoch["accuracy"])
        if now[1] >= accuracy:
            return before[0] + (now[0] - before[0]) * (accuracy - before[1]) / (now[1] - before[1])
        before = now
    return None


def mean_seconds_to(rows: Rows, accuracy: float) -> float | None:
    """The mean over rows; None if one of them never stood there."""
    found = [seconds_to(row, accuracy) for row in rows]
    return None if not found or None in found else mean(found)


def until(accuracy: float) -> Format:
    def text(rows: Rows) -> str:
        seconds = mean_seconds_to(rows, accuracy)
        return "-" if seconds is None else f"{seconds:.0f}"

    return text


def report_seconds(cells: Cells) -> str:
    columns = {f"s to {accuracy:.0%}": until(accuracy) for accuracy in (0.4, 0.5, 0.55)}
    ends = {
        "s in all": plain("seconds", ".0f"),
        "top-1 then, %": percent("accuracy"),
        "head ms a step": plain("head_ms"),
    }
    return listing(cells, columns | ends, "head")


def converged_cells() -> dict[tuple[str, ...], list[Run]]:
    """Cells (head, "1/10"): runs at both learning rates, with three seeds where ``needed`` asks for them."""

    def runs(head: str, seeds, epochs: int = EPOCHS, **fields) -> list[Run]:
        return [
            Run(head=head, seed=seed, lr=lr, epochs=epochs, **fields, **CONVERGED)
            for seed, lr in product(seeds, LEARNING_RATES)
        ]

    def seeds(head: str) -> tuple[int, ...]:
        return (0, 1, 2) if head in SEEDED else (0,)

    full = {FULL: runs("full", seeds("full")), CHECK: runs("full", [CHECK_SEED], 2 * EPOCHS)}
    sampled = {
        (head, one_in(rate)): runs(head, seeds(head), rate=rate, options=tuple(options.items()))
        for (head, options), rate in product(SAMPLED.items(), RATES)
    }
    return full | sampled


def needed(run: Run, store: Store) -> bool:
    """Whether the table wants a run yet: both learning rates with seed 0, then the one that did better there."""
    if run.seed == 0:
        return True
    first = [replace(run, seed=0, epochs=EPOCHS, lr=lr) for lr in LEARNING_RATES]
    rows = [store.rows[one] for one in first if one in store.rows]
    return len(rows) == len(first) and run.lr == at_better_rate(rows)[0]["lr"]


def at_better_rate(rows: Rows) -> Rows:
    """The rows at the learning rate that did better with seed 0 (all rows, where none has that seed)."""
    first = [row for row in rows if row["seed"] == 0]
    return [row for row in rows if not first or row["lr"] == max(first, key=lambda row: row["accuracy"])["lr"]]


def report_converged(cells: Cells) -> str:
    best = {labels: at_better_rate(rows) for labels, rows in cells.items()}
    full = best[FULL]
    # Of the check only the runs at full's own learning rate count.
    best[CHECK] = [row for row in best[CHECK] if full and row["lr"] == full[0]["lr"]]
    levels = [math.floor(100 * mean(numbers(full, "accuracy"))) - below for below in BELOW] if full else []
    columns = {f"s to {level} %": until(level / 100) for level in levels} | {
        "s in all": plain("seconds", ".0f"),
        "top-1 then, %": percent("accuracy"),
        "learning rate": lambda rows: f"{rows[0]['lr']:g}" if rows else "-",
        "head ms a step": _whole,
        **{title: _stage(stage) for stage, title in STAGES.items()},
    }
    table = listing({(", ".join(labels),): rows for labels, rows in best.items()}, columns, "head, classes scored")
    faster = [_faster(labels, rows, full, levels) for labels, rows in best.items() if labels[0] == "ann"]
    told = [
        f"{rate}: {gaps({FULL: full} | part, 'accuracy')}" for rate, part in parts(best, 1).items() if rate != "all"
    ]
    return "\n\n".join(
        [table, *filter(None, [_trained_out(best[CHECK], full), *faster, *told]), _tried(cells), HOW_TOLD]
    )


def _stage(name: str) -> Format:
    """Milliseconds a step of a part of the head."""

    def text(rows: Rows) -> str:
        return f"{mean(row['phases_ms'][name] for row in rows):.1f}" if rows else "-"

    return text


def _whole(rows: Rows) -> str:
    return f"{mean(sum(row['phases_ms'].values()) for row in rows):.1f}" if rows else "-"


def _trained_out(twice: Rows, full: Rows) -> str:
    """Whether twice the steps bring full softmax further."""
    gap = paired_gap(twice, full, "accuracy")
    if gap is None:
        return ""
    verdict = "is" if abs(gap.mean) <= LEVEL else "is not"
    return (
        f"With twice the steps full softmax ends {gap} points {'higher' if gap.mean >= 0 else 'lower'} (seed "
        f"{CHECK_SEED}); so by a measure of {LEVEL} points it {verdict} trained to its end here."
    )


def _faster(labels: tuple[str, ...], ours: Rows, full: Rows, levels: list[int]) -> str:
    """How many times sooner than full softmax the rows stand at each accuracy and at their end."""
    pairs = [(f"{level} %", mean_seconds_to(ours, level / 100), mean_seconds_to(full, level / 100)) for level in levels]
    if ours and full:
        pairs.append(("the last step", mean(numbers(ours, "seconds")), mean(numbers(full, "seconds"))))
    times = [f"{theirs / own:.1f} times sooner at {what}" for what, own, theirs in pairs if own and theirs]
    return f"{', '.join(labels)}: {', '.join(times)} than full softmax." if times else ""


def _tried(cells: Cells) -> str:
    """What every head reached with seed 0 at both learning rates."""
    found = {
        ", ".join(labels): {row["lr"]: row["accuracy"] for row in rows if row["seed"] == 0}
        for labels, rows in cells.items()
    }
    reached = "; ".join(
        f"{name} {' and '.join(f'{100 * accuracy:.1f}' for _, accuracy in sorted(tried.items()))}"
        for name, tried in found.items()
        if tried
    )
    rates = " and ".join(f"{lr:g}" for lr in LEARNING_RATES)
    return f"Each at the better of the learning rates {rates}, chosen with seed 0" + (
        f", where they reached: {reached}." if reached else "."
    )
