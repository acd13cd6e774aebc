"""Compare heads: the same network, data, recipe and seeds, and other classes that a batch is scored against."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch

from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.experiments import runs
from annsoftmax_ref.experiments.runs import EMBEDDING_SIZE, Run
from annsoftmax_ref.experiments.tasks import load_verification
from annsoftmax_ref.factory import DEFAULT_HEADS, make_selector, options_by_head
from annsoftmax_ref.machine import find_device
from annsoftmax_ref.objectives import make_objective
from annsoftmax_ref.training import History, default_recipe

BATCHES = 4  # whose labels are looked at before anything is trained


def compare(
    task: str = "glyphs",
    heads=DEFAULT_HEADS,
    objective: str = "cosface",
    rate: float = 0.1,
    groups: int | str | None = None,
    epochs: int | None = None,
    seeds=(0,),
    device: str = "auto",
    progress: bool = True,
    on_row: Callable[[dict], None] | None = None,
    on_epoch: Callable[[str, History], None] | None = None,
    verify=(),
    options: dict | None = None,
) -> list[dict]:
    """Train every head with every seed; one row each: that of ``runs.train``, with "groups" and "epochs".

    accuracy, recall and captured_mass are fractions; recall and captured_mass are means over training, one look
    every ``runs.DIAGNOSE_EVERY`` steps. What does not apply to a head is None. metrics is the report of
    ``evaluation.evaluate`` after the last epoch; accuracy is its headline: top-1, or recall at 1 for unseen classes.
    verify: .bin files of pairs of faces (LFW, CFP-FP, ...) to test on as well; in metrics as "lfw:fold_accuracy".
    options: of selectors, such as {"nprobe": 32}, for those of the heads that have them; a row has its own.
    on_row is called with each new row, on_epoch with a head's name and its history so far.
    Raises ValueError, before anything is trained, for names and numbers that do not exist and for a rate at which a
    head has too few places for a batch's own classes.
    """
    place = str(find_device(device))
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise ValueError(f"seeds holds {seed}; it should hold numbers from 0 to below 2 to the power 63")
    if epochs is not None:
        check_positive_int("epochs", epochs)
    own = options_by_head(options or {}, heads)
    for name in own:
        if name != "full" and groups is not None:
            own[name]["groups"] = groups
    planned = [
        Run(task, name, objective, rate, seed, tuple(own[name].items()), None, epochs)
        for seed in seeds
        for name in heads
    ]
    for run in planned:  # a wrong name or rate is told before the data are loaded
        make_selector(run.head, rate, **dict(run.options)).check_objective(make_objective(objective))
    data = runs.load(task)
    _check_budgets(planned, data)
    verification = load_verification(verify, data)
    rows = []
    for run in planned:
        row = runs.train(run, place, progress, on_epoch and partial(on_epoch, run.head), verification)
        rows.append(row | {"groups": row["options"].get("groups"), "epochs": len(row["history"])})
        if on_row is not None:
            on_row(rows[-1])
    return rows


def _check_budgets(planned: list[Run], data) -> None:
    """ValueError for a head without a place for every class of its batches, judged by a few that are drawn alike."""
    generator = torch.Generator().manual_seed(0)
    size = min(default_recipe(planned[0].objective).batch_size, len(data.train))
    batches = torch.randperm(len(data.train), generator=generator)[: BATCHES * size].split(size)
    draws = (generator,) if getattr(data.train, "draws", False) else ()
    labels = [data.train.batch(index, *draws)[1] for index in batches]
    for run in planned:
        selector = make_selector(run.head, run.rate, **dict(run.options))
        selector.bind(data.num_classes, EMBEDDING_SIZE)
        try:
            for some in labels:
                selector.check_budget(some)
        except ValueError as error:
            most = _rounded_up(min(size, data.num_classes) / data.num_classes)
            groups = -(-size // selector.active_classes)
            raise ValueError(
                f"rate is {run.rate:g}, which leaves {run.head} {selector.active_classes} of {data.num_classes} "
                f"classes, too few for a batch of {size} samples; raise rate to {most}, or groups to {groups}, or "
                f"leave {run.head} out of heads"
            ) from error


def _rounded_up(share: float) -> str:
    """To two digits."""
    unit = 10.0 ** (math.floor(math.log10(share)) - 1)
    return f"{math.ceil(share / unit - 1e-9) * unit:g}"
