"""``annsoftmax bench growth``: how a step's time grows with the number of classes, all else being fixed."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable

import numpy as np

from annsoftmax_ref.bench.step import bench_step


def bench_growth(
    sizes: list[int],
    active: int,
    dim: int,
    batch: int,
    nprobe: int,
    half: bool,
    rounds: int,
    on_size: Callable[[dict], None] | None = None,
) -> list[dict]:
    """Rows of ``bench_step`` for the ann head at each number of classes.

    ``active`` classes and ``nprobe`` lists whatever the size; nlist grows as its power of 2/3 (the default), so that
    nprobe lists hold a number of classes that grows as the cube root. on_size is called with each new row.
    Raises ValueError, before anything is measured, for a number of classes below ``active``.
    """
    if active > min(sizes):
        raise ValueError(f"active is {active}; it should be at most the smallest number of classes, {min(sizes)}")
    rows = []
    for classes in sizes:
        rows += bench_step(classes, dim, batch, active / classes, ["ann"], half, rounds, groups=1, nprobe=nprobe)
        gc.collect()
        if on_size is not None:
            on_size(rows[-1])
    return rows


def exponent(rows: list[dict]) -> float:
    """The exponent e of time ~ classes^e, fitted to rows of ``bench_growth``; NaN for fewer than two."""
    if len(rows) < 2:
        return math.nan
    sizes, times = ([row[name] for row in rows] for name in ("classes", "ms_median"))
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
