"""``annsoftmax bench growth``: how a step's time grows with the number of classes, all else being fixed."""

from __future__ import annotations

import gc

import numpy as np

from annsoftmax_ref.bench.step import bench_step


def bench_growth(
    sizes: list[int], active: int, dim: int, batch: int, nprobe: int, half: bool, rounds: int, on_size=None
) -> tuple[list[dict], float]:
    """Rows of ``bench_step`` for the ann head at each number of classes, and the exponent e of time ~ classes^e.

    ``active`` classes and ``nprobe`` lists whatever the size; nlist grows as its square root (the default), so that
    nprobe lists hold a number of classes that grows as the square root too.
    """
    rows = []
    for classes in sizes:
        if active > classes:
            raise ValueError(f"active is {active}; it should be at most the smallest number of classes, {min(sizes)}")
        rows += bench_step(classes, dim, batch, active / classes, ["ann"], half, rounds, groups=1, nprobe=nprobe)
        gc.collect()
        if on_size is not None:
            on_size(rows[-1])
    exponent = np.polyfit(np.log(sizes), np.log([row["ms_median"] for row in rows]), 1)[0] if len(rows) > 1 else np.nan
    return rows, float(exponent)
