"""``annsoftmax bench step``: one whole step of a head, next to the other heads, in turn, round after round."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from statistics import median

import torch

from annsoftmax_ref.bench.busy import copies
from annsoftmax_ref.bench.heads import EXACT, make_step, own_options, rate_of
from annsoftmax_ref.bench.stopwatch import medians
from annsoftmax_ref.bench.vectors import clustered_vectors
from annsoftmax_ref.experiments.reports import grid
from annsoftmax_ref.machine import memory
from annsoftmax_ref.machine.device import wait_for

PATIENCE = 20.0  # seconds: a head whose step takes longer is timed in one round only


def bench_step(
    classes: int,
    dim: int,
    batch: int,
    rate: float,
    heads: list[str],
    half: bool,
    rounds: int = 7,
    device: torch.device | None = None,
    seed: int = 0,
    busy: int = 0,
    on_head: Callable[[str, float, float], None] | None = None,
    groups: int | None = 1,
    **options,
) -> list[dict]:
    """One row a head: {"head", "classes", "dim", "batch", "rate", "groups", "precision", "rounds", "ms_median",
    "ms_min", "ms_max", "rebuilding_ms", "fastest_full", "speedup_vs_full", "phases_ms", "peak_mb", "first_ms",
    "first_phases_ms", "busy", "options"}.

    Weights are clustered rows and embeddings lie near their class, as in training. Each round takes a new batch and
    gives it to the heads in turn; two rounds before them warm up. first_ms: of the very first step, in which an index
    is made ("prepare" of its phases) and momentum allocated. peak_mb: most memory over what was held before
    the step (weights, momentum and index), in a step that is not timed. busy: so many processes more take steps of
    the same heads, in turn, while the rounds are timed. rebuilding_ms (of lsh, forest and knn) is not in the other
    times. fastest_full: of the heads here that score all classes; speedup_vs_full is to that one. groups: of every head
    that samples, but ``random_dense``; None: by the rule. options: of selectors, for those of the heads that have them.
    """
    device = device or torch.device("cpu")
    weight, new_batch = weight_and_batches(classes, dim, batch, device, seed)

    steps, peaks, slow, first = {}, {}, {}, {}
    for name in heads:
        step = steps[name] = make_step(name, weight, rate, half, groups, **options)
        start = time.perf_counter()
        step(*new_batch())
        wait_for(device)
        first[name] = {"first_ms": (time.perf_counter() - start) * 1e3, "first_phases_ms": step.phases}
        gc.collect()
        with memory.peak_memory(device) as peak:
            start = time.perf_counter()
            step(*new_batch())
            spent = time.perf_counter() - start
        peaks[name], slow[name] = peak["peak_mb"], spent > PATIENCE
        if on_head is not None:
            on_head(name, spent * 1e3, first[name]["first_ms"])

    times: dict[str, list[float]] = {name: [] for name in heads}
    phases: dict[str, list[dict]] = {name: [] for name in heads}
    with copies(busy, steps_in_turn, classes, dim, batch, rate, heads, half, device, seed, groups, options):
        for round_ in range(rounds):
            x, labels = new_batch()
            for name, step in steps.items():
                if slow[name] and round_:
                    continue
                wait_for(device)
                start = time.perf_counter()
                step(x, labels)
                wait_for(device)
                times[name].append((time.perf_counter() - start) * 1e3)
                phases[name].append(step.phases)
    taken = own_options(heads, options)
    exact = {name: median(times[name]) for name in EXACT if name in times}
    fastest = min(exact, key=exact.get, default=None)
    return [
        {
            "head": name,
            "classes": classes,
            "dim": dim,
            "batch": batch,
            "rate": rate_of(name, rate),
            "groups": steps[name].groups_for(batch),
            "precision": "bf16" if half else "fp32",
            "rounds": len(spent),
            "ms_median": median(spent),
            "ms_min": min(spent),
            "ms_max": max(spent),
            "rebuilding_ms": steps[name].rebuilding_ms,
            "fastest_full": fastest,
            "speedup_vs_full": exact[fastest] / median(spent) if fastest else None,
            "phases_ms": medians(phases[name]),
            "peak_mb": peaks[name],
            **first[name],
            "busy": busy,
            "options": taken[name],
        }
        for name, spent in times.items()
    ]


def steps_in_turn(
    classes: int,
    dim: int,
    batch: int,
    rate: float,
    heads: list[str],
    half: bool,
    device: torch.device,
    seed: int,
    groups: int | None,
    options: dict,
) -> Callable[[], None]:
    """A call of what is returned takes a step of each head on a new batch: a copy's work, as ``bench_step``'s is."""
    if device.type == "cpu":
        memory.keep_freed_memory()
    weight, new_batch = weight_and_batches(classes, dim, batch, device, seed)
    steps = [make_step(name, weight, rate, half, groups, **options) for name in heads]

    def take() -> None:
        x, labels = new_batch()
        for step in steps:
            step(x, labels)
            wait_for(device)

    return take


def weight_and_batches(classes: int, dim: int, batch: int, device: torch.device, seed: int):
    """Clustered rows [N, d], and a function that draws embeddings [B, d] near their classes, with labels [B]."""
    weight = clustered_vectors(classes, dim, batch, seed).rows.to(device)
    generator = torch.Generator().manual_seed(seed)

    def new_batch():
        labels = torch.randint(classes, (batch,), generator=generator)
        noise = torch.randn(batch, dim, generator=generator) / dim**0.5
        return weight[labels] + noise.to(device), labels.to(device)

    return weight, new_batch


def groups_of(row: dict) -> int | None:
    """Active sets a batch; rows from before all heads could have several say it of ann alone."""
    return row["groups"] if "groups" in row else row.get("nearest", {}).get("groups")


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table; records from before there was ``busy`` had no copies beside them."""
    shown = any(r.get("busy") for r in rows)
    titles = ["head", "classes", "dim", "rate", "groups", "precision", *["copies beside"] * shown, "ms (median)"]
    titles += ["min..max", "times faster than full", "peak MB", "phases, ms"]
    lines = [
        [
            r["head"],
            f"{r['classes']:,}",
            str(r["dim"]),
            f"{r['rate']:g}",
            str(groups_of(r) or "-"),
            r["precision"],
            *[str(r.get("busy", 0))] * shown,
            f"{r['ms_median']:.1f}",
            f"{r['ms_min']:.1f}..{r['ms_max']:.1f}",
            f"{r['speedup_vs_full']:.1f}" if r["speedup_vs_full"] else "-",
            f"{r['peak_mb']:.0f}" if r["peak_mb"] is not None else "-",
            ", ".join(f"{stage} {ms:.1f}" for stage, ms in r["phases_ms"].items()),
        ]
        for r in rows
    ]
    return grid(titles, lines)
