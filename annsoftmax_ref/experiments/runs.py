"""Runs: one training from its description to its row, and a store of rows that remembers what was run."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch

from annsoftmax_ref import evaluation, machine
from annsoftmax_ref.datasets import VerificationPairs
from annsoftmax_ref.experiments import records, tasks
from annsoftmax_ref.experiments.phases import Phases
from annsoftmax_ref.factory import make_head
from annsoftmax_ref.machine import memory
from annsoftmax_ref.training import History, default_recipe, fit

EMBEDDING_SIZE = 128
DIAGNOSE_EVERY = 100  # steps; each look costs about one step of the full softmax and is not in the times


class Storage(NamedTuple):
    """What a head's numbers are kept in: its weight, and its momentum (of AdamW both averages)."""

    weight: torch.dtype
    momentum: torch.dtype


STORAGES = {
    "fp32": Storage(torch.float32, torch.float32),
    "bf16": Storage(torch.bfloat16, torch.bfloat16),
    "fp8": Storage(torch.float8_e4m3fn, torch.bfloat16),
    "fp8_int8": Storage(torch.float8_e4m3fn, torch.int8),
}
LOOKS = ("recall", "captured_mass", "gradient_error", "active_share")


@dataclass(frozen=True)
class Run:
    """What one training is made of; equal runs give equal rows (times aside).

    head, objective, task: by their names. rate: of a sampling head. options: of its selector, as sorted pairs.
    batch_size, epochs, steps (of an epoch), lr: None for the recipe's. storage: a key of ``STORAGES``.
    """

    task: str
    head: str
    objective: str = "cosface"
    rate: float = 0.1
    seed: int = 0
    options: tuple[tuple[str, object], ...] = ()
    batch_size: int | None = None
    epochs: int | None = None
    steps: int | None = None
    lr: float | None = None
    storage: str = "fp32"

    def __post_init__(self):
        if self.head == "full":
            object.__setattr__(self, "rate", 1.0)
        object.__setattr__(self, "options", tuple(sorted((str(k), v) for k, v in self.options)))

    @classmethod
    def of(cls, row: dict) -> Run:
        """The run that a row is of; a row from before there was a field has its default."""
        fields = {field.name: row.get(field.name, field.default) for field in dataclasses.fields(cls)}
        return cls(**{**fields, "options": tuple(row["options"].items())})


def train(
    run: Run,
    device: str = "cpu",
    progress: bool = False,
    on_epoch: Callable[[History], None] | None = None,
    verification: dict[str, VerificationPairs] | None = None,
) -> dict:
    """Train and evaluate one run -> its row: the run's fields, and what came of it.

    accuracy is the task's headline number (``evaluation.evaluate``), a fraction like all in ``metrics``; history and
    looks are lists over training, an entry an epoch and one every ``DIAGNOSE_EVERY`` steps. seconds are of training
    alone, phases_ms of the head's parts (``Phases``). verification: further pairs to test on, whose metrics are named
    "NAME:fold_accuracy" and so on.
    Raises ValueError for a name or number that does not exist, before anything is trained.
    """
    recipe = default_recipe(run.objective)
    recipe = dataclasses.replace(
        recipe,
        batch_size=run.batch_size or recipe.batch_size,
        steps_per_epoch=run.steps or recipe.steps_per_epoch,
        lr=run.lr or recipe.lr,
    )
    if run.storage not in STORAGES:
        raise ValueError(f"storage is {run.storage!r}; it should be one of {', '.join(STORAGES)}")
    recipe = dataclasses.replace(recipe, momentum_in_8_bits=STORAGES[run.storage].momentum == torch.int8)
    data, place = load(run.task), torch.device(device)
    model = tasks.make_model(data, EMBEDDING_SIZE, seed=run.seed).to(place)
    objective = recipe.make_objective()
    head = make_head(
        run.head,
        data.num_classes,
        EMBEDDING_SIZE,
        objective,
        run.rate,
        seed=run.seed,
        dtype=STORAGES[run.storage].weight,
        **dict(run.options),
    )
    phases = Phases(head)
    with memory.peak_memory(place) as peak:
        history = fit(
            model,
            head.to(place),
            data,
            recipe,
            epochs=run.epochs,
            seed=run.seed,
            progress=progress,
            diagnose_every=DIAGNOSE_EVERY,
            on_epoch=on_epoch,
        )
    head_ms = sum(epoch.head_ms for epoch in history.epochs) / len(history.epochs)
    by_stage = phases.of_steps(head_ms)
    metrics = evaluation.evaluate(model, head, data)  # on the same pairs, whatever the seed
    for name, pairs in (verification or {}).items():
        metrics |= {f"{name}:{key}": value for key, value in evaluation.verify(model, pairs).items()}
    looks = {name: [look[name] for look in history.diagnostics] for name in LOOKS}
    return {
        **dataclasses.asdict(run),
        "options": dict(run.options),
        "num_classes": data.num_classes,
        "accuracy": history.accuracy,
        "metrics": metrics,
        "loss": history.epochs[-1].loss,
        "seconds": history.epochs[-1].seconds,
        "head_ms": head_ms,
        "phases_ms": by_stage,
        **{name: sum(values) / len(values) if values else None for name, values in looks.items()},
        "peak_mb": peak["peak_mb"],
        "looks": looks,
        "history": history.to_dict()["epochs"],
        "environment": machine.describe(place),
    }


@functools.lru_cache(maxsize=1)
def load(task: str):
    """The task's data, kept for the next run."""
    return tasks.load_task(task)


class Store:
    """Rows by their run, in one JSON file that is rewritten whole after each new row."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        rows = records.read_record(self.path)["rows"] if self.path.exists() else []
        self.rows: dict[Run, dict] = {Run.of(row): row for row in rows}

    def add(self, row: dict) -> None:
        self.rows[Run.of(row)] = row
        records.write_rows(list(self.rows.values()), self.path)

    def missing(self, runs: Iterable[Run]) -> list[Run]:
        """Those of runs without a row, each once, in their order."""
        return [run for run in dict.fromkeys(runs) if run not in self.rows]


def train_missing(
    runs: Iterable[Run], store: Store, jobs: int = 1, device: str = "cpu", on_row: Callable[[dict], None] | None = None
) -> None:
    """Train the runs that the store lacks, ``jobs`` at a time in processes of their own, and add each as it ends."""
    missing = store.missing(runs)
    threads = max(1, machine.cores() // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker, (threads,)) as pool:
        try:
            for done in as_completed([pool.submit(train, run, device) for run in missing]):
                store.add(done.result())
                if on_row is not None:
                    on_row(done.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_worker(threads: int) -> None:
    memory.keep_freed_memory()
    torch.set_num_threads(threads)
