"""``fit()``: one training loop for the notebooks, the tests and the command line."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from torch import Tensor, nn
from tqdm.auto import tqdm

from annsoftmax_ref import evaluation
from annsoftmax_ref.checks import check_from_0, check_positive_int
from annsoftmax_ref.machine.device import device_of
from annsoftmax_ref.machine.files import check_writable
from annsoftmax_ref.objectives import OBJECTIVES
from annsoftmax_ref.training import checkpoint as files
from annsoftmax_ref.training.batches import epoch_generator, make_batch, order_of_epoch, steps_of
from annsoftmax_ref.training.history import Epoch, History
from annsoftmax_ref.training.recipe import Recipe, build_optimizer, build_scheduler, default_recipe
from annsoftmax_ref.training.step import train_step


def fit(
    model: nn.Module,
    head: nn.Module,
    data,
    recipe: Recipe | None = None,
    *,
    optimizer=None,
    scheduler=None,
    epochs: int | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
    resume: bool = False,
    evaluate: Callable[[], float] | None = None,
    diagnose_every: int = 0,
    on_epoch: Callable[[History], None] | None = None,
    progress: bool = True,
) -> History:
    """Train ``model`` (to embeddings [B, d]) and ``head`` on ``data.train``; test after each epoch.

    ``data.train.batch(index)`` gives inputs and labels [B]. Inputs in uint8 are images, which the recipe augments and
    the model reads as floats [B, C, H, W]; all others, features and sparse texts, it reads as they are. A set with
    ``draws`` is given the epoch's generator, too, to draw one of a sample's labels with.

    recipe: default, that of the head's objective; ``epochs`` replaces its number of epochs.
    optimizer, scheduler: default, the recipe's. An optimizer given without a scheduler keeps its learning rate.
    seed: of the order of the data and of the augmentation, for each epoch anew.
    checkpoint: a file written after each epoch. With ``resume`` training goes on from it if it is there, and ends
        bit for bit where it would have ended without the interruption.
    evaluate: default, the headline of ``evaluation.evaluate``: ``accuracy`` on ``data.test``, ``recall_at_1`` if its
        classes are unseen ones, precision at 1 if a sample is of several.
    diagnose_every: sample ``head.diagnose`` every so many steps; each sample costs about a full softmax's step.
    on_epoch: called with the history after each epoch, when the checkpoint is written.

    Raises TypeError for a count or seed that is no whole number, ValueError for one too small and for a checkpoint that
    is broken, of another run or not writable, before anything is changed, and FloatingPointError if the loss is no
    longer finite.
    """
    recipe = _counted(recipe or default_recipe(_objective_name(head)), epochs)
    seed = check_from_0("seed", seed)
    if resume and checkpoint is None:
        raise ValueError("resume is True but checkpoint is None; name the file to go on from")
    if optimizer is None:
        optimizer = build_optimizer(model, head, recipe)
        scheduler = scheduler or build_scheduler(optimizer, recipe, steps_of(data, recipe) * recipe.epochs)
    evaluate = evaluate or (lambda: evaluation.score(model, head, data))
    run = Fit(model, head, data, recipe, optimizer, scheduler, seed, diagnose_every)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None:
        check_writable("checkpoint", path)
        if resume and path.exists():
            run.restore(path)

    first, history = len(run.history.epochs), run.history
    with tqdm(total=recipe.epochs * run.steps, initial=first * run.steps, unit="step", disable=not progress) as bar:
        for epoch in range(first, recipe.epochs):
            bar.set_description(f"epoch {epoch + 1}/{recipe.epochs}")
            row = run.train_epoch(epoch, bar)
            # Brought up to date at each epoch's end, saved or not: so that both give the same bits.
            run.bring_up_to_date()
            row.accuracy = evaluate()
            history.epochs.append(row)
            bar.set_postfix_str(f"loss {row.loss:.3f}, accuracy {row.accuracy:.1%}")
            if path is not None:
                run.save(path)
            if on_epoch is not None:
                on_epoch(history)
    return history


@dataclass
class Fit:
    """One call of ``fit``: what is trained, on what, with which numbers, and what has been seen so far."""

    model: nn.Module
    head: nn.Module
    data: Any
    recipe: Recipe
    optimizer: Any
    scheduler: Any
    seed: int
    diagnose_every: int
    history: History = field(default_factory=History)

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return steps_of(self.data, self.recipe)

    def train_epoch(self, epoch: int, bar: tqdm) -> Epoch:
        """The steps of epoch number ``epoch``, from 0; its row of the history, whose accuracy is still to be filled."""
        generator = epoch_generator(self.seed, epoch)
        lr = self.optimizer.param_groups[0]["lr"]
        self.model.train()
        self.head.train()
        losses, head_ms, aside, start = [], [], 0.0, time.perf_counter()
        place = device_of(self.model)
        for step, index in enumerate(order_of_epoch(self.data, self.recipe, generator), 1):
            inputs, labels = make_batch(self.data.train, index, self.recipe, generator, place)
            loss, milliseconds, embeddings = train_step(self.model, self.head, self.optimizer, inputs, labels)
            if self.scheduler is not None:
                self.scheduler.step()
            losses.append(loss)
            head_ms.append(milliseconds)
            done = epoch * self.steps + step
            if self.diagnose_every and done % self.diagnose_every == 0:
                aside += self._diagnose(done, epoch, embeddings, labels)
            bar.update()
            if step % 10 == 0:
                accuracy = f", accuracy {self.history.accuracy:.1%}" if self.history.epochs else ""
                bar.set_postfix_str(f"loss {np.mean(losses[-50:]):.3f}{accuracy}")
        seconds = self.history.seconds + time.perf_counter() - start - aside
        return Epoch(epoch + 1, seconds, float(np.mean(losses)), math.nan, median(head_ms), lr)

    def bring_up_to_date(self) -> None:
        """The optimizer's rows that lag, and the head with its index."""
        for part, method in ((self.optimizer, "flush"), (self.head, "sync")):
            if hasattr(part, method):  # torch's optimizers have nothing that lags
                getattr(part, method)()

    def save(self, path: Path) -> None:
        state = {name: part.state_dict() for name, part in self._parts().items()}
        files.save(path, {"run": self._settings(), "history": self.history.to_dict(), **state})

    def restore(self, path: Path) -> None:
        """Load the checkpoint, if it belongs to this run. ValueError, with nothing changed, if it does not."""
        saved = files.load(path)
        for name, value in self._settings().items():
            if saved["run"].get(name) != value:
                raise ValueError(
                    f"checkpoint is {path}, which is of another run: its {name} is {saved['run'].get(name)} "
                    f"and should be {value}; call fit() as before or name another file"
                )
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        self.history = History.from_dict(saved["history"])

    def _parts(self) -> dict:
        """What a checkpoint holds the state of."""
        names = ("model", "head", "optimizer", "scheduler")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _settings(self) -> dict:
        """Numbers that resuming needs to find unchanged."""
        return {
            "seed": self.seed,
            "recipe": dataclasses.asdict(self.recipe),
            "samples": len(self.data.train),
            "classes": self.data.num_classes,
        }

    def _diagnose(self, done: int, epoch: int, embeddings: Tensor, labels: Tensor) -> float:
        """Sample the head after ``done`` steps; the seconds that it took."""
        start = time.perf_counter()
        sample = self.head.diagnose(embeddings, labels)
        cost = time.perf_counter() - start
        self.history.diagnostics.append({"step": done, "epoch": epoch + 1, **sample, "cost_ms": cost * 1e3})
        return cost


def _counted(recipe: Recipe, epochs: int | None) -> Recipe:
    """The recipe with that many epochs, its counts checked and plain numbers, as a checkpoint can hold them."""
    counts = {name: getattr(recipe, name) for name in ("epochs", "batch_size", "steps_per_epoch")}
    counts |= {} if epochs is None else {"epochs": epochs}
    return dataclasses.replace(
        recipe, **{name: int(check_positive_int(name, n)) for name, n in counts.items() if n is not None}
    )


def _objective_name(head: nn.Module) -> str:
    return next((name for name, kind in OBJECTIVES.items() if type(head.objective) is kind), "cosface")
