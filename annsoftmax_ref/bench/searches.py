"""``annsoftmax bench searches``: the cost of each way to choose classes, with one active set and with several."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from annsoftmax_ref.bench.heads import SAMPLING, HeadStep, Step, make_step, own_options
from annsoftmax_ref.bench.step import weight_and_batches
from annsoftmax_ref.bench.stopwatch import medians, timed
from annsoftmax_ref.experiments.reports import grid
from annsoftmax_ref.rivals import LabelGraphClasses
from annsoftmax_ref.rivals.rebuilt import RebuiltClasses

HEADS = ("full", "random", "lsh", "forest", "knn", "ann")
WHOLE_GRAPH = 50_000  # classes; of more, only those rows of the label graph are made, and timed, that are asked for
WARM_UP = 2  # steps


class PartOfGraph(LabelGraphClasses):
    """A label graph made for the classes ``asked`` [n] alone, since all of it takes N^2 d; ``whole_ms``: milliseconds
    that all of it would take at that pace."""

    asked: Tensor
    whole_ms: float

    def rebuild(self, directions: Tensor, generator: torch.Generator) -> None:
        start = time.perf_counter()
        self.fill(self.asked, directions)
        self.whole_ms = (time.perf_counter() - start) * 1e3 * self.num_classes / len(self.asked)


def bench_searches(
    classes: int,
    rates: list[float],
    heads: list[str],
    half: bool,
    rounds: int = 15,
    dim: int = 128,
    batch: int = 96,
    seed: int = 0,
    on_row: Callable[[dict], None] | None = None,
    **options,
) -> list[dict]:
    """Rows {"head", "classes", "rate", "groups", "by_rule", "dim", "batch", "precision", "options", "rounds", "ms",
    "ms_median", "rebuilding_ms", "phases_ms"}: for each rate, each head with one set a batch and with groups by the
    rule.

    ms: of a step, the median of the rounds with rebuilding_ms, what the head builds anew every so many steps, spread
    over these. In each round all take a step in turn on the same batch. What is built for the first rate serves the
    others. on_row is called with each row. Raises ValueError for a head that does not exist.
    """
    weight, new_batch = weight_and_batches(classes, dim, batch, torch.device("cpu"), seed)
    batches = [new_batch() for _ in range(WARM_UP + rounds)]
    asked = torch.cat([labels for _, labels in batches]).unique()
    rows: list[dict] = []
    own = own_options(heads, options)
    built: dict[str, Step] = {}
    for rate in rates:
        steps = {name: _make(name, weight, rate, half, asked, own[name]) for name in heads}
        for name, step in built.items():
            _take_over(steps[name], step)
        for (name, groups), spent in _in_turn(steps, batches).items():
            whole, rebuilding = median(spent.ms[WARM_UP:]), _rebuilding_ms(steps[name])
            row = {
                "head": name,
                "classes": classes,
                "rate": rate,
                "groups": spent.groups,
                "by_rule": groups is None,
                "dim": dim,
                "batch": batch,
                "precision": "bf16" if half else "fp32",
                "options": own[name],
                "rounds": rounds,
                "ms": whole + rebuilding,
                "ms_median": whole,
                "rebuilding_ms": rebuilding,
                "phases_ms": medians(spent.phases[WARM_UP:]),
            }
            rows.append(row)
            if on_row is not None:
                on_row(row)
        built = {name: step for name, step in steps.items() if _selector(step) is not None}
        del steps
        gc.collect()
    return rows


@dataclass
class Spent:
    """groups: active sets a batch; ms, phases: of each step."""

    groups: int | None
    ms: list[float] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)


def _in_turn(steps: dict[str, Step], batches: list[tuple[Tensor, Tensor]]) -> dict[tuple[str, int | None], Spent]:
    """By head and groups (1, or None for the rule): all of them take a step in turn on each batch."""
    spent: dict[tuple[str, int | None], Spent] = {}
    for x, labels in batches:
        for name, step in steps.items():
            for groups in (1, None) if name in SAMPLING else (1,):
                if isinstance(step, HeadStep):
                    step.head.selector.groups = groups
                found = spent.setdefault((name, groups), Spent(step.groups_for(len(x))))
                start = time.perf_counter()
                step(x, labels)
                found.ms.append((time.perf_counter() - start) * 1e3)
                found.phases.append(step.phases)
    return spent


def _make(name: str, weight: Tensor, rate: float, half: bool, asked: Tensor, options: dict) -> Step:
    if name != "knn" or len(weight) <= WHOLE_GRAPH:
        return make_step(name, weight, rate, half, **options)
    selector = timed(PartOfGraph)(rate, **options)
    selector.asked = asked
    return HeadStep(selector, weight, half)


def _selector(step: Step) -> RebuiltClasses | None:
    """The step's, if it is one that builds something anew every so many steps."""
    selector = step.head.selector if isinstance(step, HeadStep) else None
    return selector if isinstance(selector, RebuiltClasses) else None


def _take_over(step: Step, built: Step) -> None:
    """Let step go on with what was built for another rate."""
    _selector(step).load_state_dict(_selector(built).state_dict())
    step.rebuilding_ms = _rebuilding_ms(built)


def _rebuilding_ms(step: Step) -> float:
    selector = _selector(step)
    whole = getattr(selector, "whole_ms", None)
    return step.rebuilding_ms if whole is None else whole / selector.rebuild_steps


def table(rows: list[dict]) -> str:
    """Milliseconds a step: a line for each head, with one set and with groups, a column for each size and rate."""
    columns = list(dict.fromkeys((row["classes"], row["rate"]) for row in rows))
    found = {(*line_of(row), row["classes"], row["rate"]): row for row in rows}
    titles = [f"{classes:,}, 1/{round(1 / rate)}" for classes, rate in columns]
    lines = [
        [", ".join(filter(None, line)), *(_cell(found.get((*line, *column))) for column in columns)]
        for line in dict.fromkeys(map(line_of, rows))
    ]
    return grid(["ms a step (of it rebuilding)", *titles], lines)


def line_of(row: dict) -> tuple[str, str]:
    """What the row is of: its head, and "groups" if it has them by the rule."""
    return row["head"], "groups" if row["by_rule"] else ""


def _cell(row: dict | None) -> str:
    if row is None:
        return "-"
    digits = 1 if row["ms"] < 100 else 0
    rebuilding = f" ({row['rebuilding_ms']:.{digits}f})" if row["rebuilding_ms"] else ""
    sets = f", {row['groups']} set{'s'[: row['groups'] > 1]}" if row["by_rule"] else ""
    return f"{row['ms']:.{digits}f}{rebuilding}{sets}"
