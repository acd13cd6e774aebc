"""``annsoftmax bench growth``: how a step's time grows with the number of classes."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable

import numpy as np

from annsoftmax_ref.bench.step import bench_step


def bench_growth(
    rates: dict[int, float],
    heads: list[str],
    dim: int,
    batch: int,
    half: bool,
    rounds: int,
    on_head: Callable[[str, float, float], None] | None = None,
    on_size: Callable[[list[dict]], None] | None = None,
    **options,
) -> list[dict]:
    """Rows of ``bench_step`` for the heads at each number of classes.

    rates: the share of them that is scored, by number of classes. options: what ``bench_step`` is given at every size,
    groups and the selectors' own; by default an index's nlist grows as the size's power of 2/3, so that a fixed nprobe
    looks at a number of classes that grows as the cube root. on_size is called with the rows of each size, on_head as
    ``bench_step`` does.
    """
    rows = []
    for classes, rate in rates.items():
        found = bench_step(classes, dim, batch, rate, heads, half, rounds, on_head=on_head, **options)
        rows += found
        gc.collect()
        if on_size is not None:
            on_size(found)
    return rows


def exponent(rows: list[dict]) -> float:
    """The exponent e of time ~ classes^e, fitted to rows of one head; NaN for fewer than two."""
    if len(rows) < 2:
        return math.nan
    sizes, times = ([row[name] for row in rows] for name in ("classes", "ms_median"))
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def of_head(rows: list[dict], head: str) -> list[dict]:
    """The rows of a head, from the fewest classes to the most."""
    return sorted((row for row in rows if row["head"] == head), key=lambda row: row["classes"])


def crossover(rows: list[dict]) -> float:
    """From how many classes on ann's step is cheaper than full's, for rows of both at the same sizes.

    Read off between two measured sizes, where the two times as straight lines on logarithmic axes meet; 0 if ann is
    cheaper at every size that was measured, infinity if it is not at the largest.
    """
    ours, theirs = of_head(rows, "ann"), of_head(rows, "full")
    sizes = [math.log(row["classes"]) for row in ours]
    leads = [math.log(a["ms_median"] / b["ms_median"]) for a, b in zip(ours, theirs, strict=True)]
    dearer = [place for place, lead in enumerate(leads) if lead >= 0]
    if not dearer:
        return 0.0
    last = dearer[-1]
    if last == len(sizes) - 1:
        return math.inf
    return math.exp(sizes[last] + (sizes[last + 1] - sizes[last]) * leads[last] / (leads[last] - leads[last + 1]))


def finding(rows: list[dict]) -> str:
    """What rows of full and ann show, in one sentence."""
    ours, theirs = of_head(rows, "ann"), of_head(rows, "full")
    sizes = [row["classes"] for row in ours]
    return (
        f"a step at {', '.join(f'{size:,}' for size in sizes)} classes, {ours[0]['rate']:.0%} of them scored by ann: "
        f"full {_grown(theirs)}, ann {_grown(ours)}; {_where(crossover(rows), sizes)}."
    )


def _grown(rows: list[dict]) -> str:
    times = ", ".join(f"{row['ms_median']:.1f}" for row in rows)
    return f"{times} ms (the number of classes to the power {exponent(rows):.2f})"


def _where(crossed: float, sizes: list[int]) -> str:
    if not crossed:
        return f"ann's is the cheaper at every size, so that they cross below {sizes[0]:,}"
    if crossed == math.inf:
        return f"ann's is not the cheaper up to {sizes[-1]:,}"
    return f"ann's is the cheaper from about {float(f'{crossed:.2g}'):,.0f} on, read off between these sizes"
