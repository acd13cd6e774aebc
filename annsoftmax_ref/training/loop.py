"""Training: ``fit()``, one loop for the notebooks, the tests and the command line.

A step runs the backbone forward, then the head on embeddings cut from the graph (loss, backward, its rows'
update), then the backbone backward from the embeddings' gradient. That is the same step as one backward through
both, and it lets the head's time be measured whole and by itself.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from annsoftmax_ref import evaluation
from annsoftmax_ref.datasets.inputs import are_images, to_model
from annsoftmax_ref.machine.device import autocast, device_of, wait_for
from annsoftmax_ref.machine.files import check_writable
from annsoftmax_ref.objectives import OBJECTIVES
from annsoftmax_ref.training import checkpoint as files
from annsoftmax_ref.training.recipe import Recipe, build_optimizer, build_scheduler, default_recipe


@dataclass
class Epoch:
    """One row of the history. ``seconds``: of training up to here, without evaluation, diagnostics and saving;
    ``accuracy``: 0 to 1, on the test set after this epoch; ``head_ms``: the median step's time in the head (loss,
    backward, update of its rows); ``lr``: at the epoch's start."""

    epoch: int
    seconds: float
    loss: float
    accuracy: float
    head_ms: float
    lr: float


@dataclass
class History:
    """``epochs``: a row each. ``diagnostics``: a dict for each sampled step (``head.diagnose`` and its cost)."""

    epochs: list[Epoch] = field(default_factory=list)
    diagnostics: list[dict] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """After the last epoch; NaN before the first."""
        return self.epochs[-1].accuracy if self.epochs else math.nan

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, saved: dict) -> History:
        return cls([Epoch(**row) for row in saved["epochs"]], list(saved["diagnostics"]))


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

    Raises ValueError for a checkpoint that is broken, of another run or not writable, before anything is changed,
    and FloatingPointError if the loss is no longer finite.
    """
    recipe = recipe or default_recipe(_objective_name(head))
    if epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=epochs)
    _check_numbers(epochs=recipe.epochs, batch_size=recipe.batch_size)
    path = None if checkpoint is None else Path(checkpoint)
    if resume and path is None:
        raise ValueError("resume is True but checkpoint is None; name the file to go on from")
    steps = _steps_per_epoch(len(data.train), recipe)
    if optimizer is None:
        optimizer = build_optimizer(model, head, recipe)
        scheduler = scheduler or build_scheduler(optimizer, recipe, steps * recipe.epochs)
    evaluate = evaluate or (lambda: evaluation.score(model, head, data))

    # Numbers that resuming needs to find unchanged.
    run = {"seed": seed, "recipe": dataclasses.asdict(recipe), "samples": len(data.train), "classes": data.num_classes}
    parts = {"model": model, "head": head, "optimizer": optimizer, "scheduler": scheduler}
    history = History()
    if path is not None:
        check_writable("checkpoint", path)
        if resume and path.exists():
            history = _restore(path, run, parts)

    first = len(history.epochs)
    with tqdm(total=recipe.epochs * steps, initial=first * steps, unit="step", disable=not progress) as bar:
        for epoch in range(first, recipe.epochs):
            bar.set_description(f"epoch {epoch + 1}/{recipe.epochs}")
            row = _run_epoch(
                epoch, model, head, data, recipe, optimizer, scheduler, seed, steps, history, diagnose_every, bar
            )
            # Brought up to date at each epoch's end, saved or not: so that both give the same bits.
            for part, method in ((optimizer, "flush"), (head, "sync")):
                if hasattr(part, method):
                    getattr(part, method)()
            row.accuracy = evaluate()
            history.epochs.append(row)
            bar.set_postfix_str(f"loss {row.loss:.3f}, accuracy {row.accuracy:.1%}")
            if path is not None:
                state = {name: part.state_dict() for name, part in parts.items() if part is not None}
                files.save(path, {"run": run, "history": history.to_dict(), **state})
            if on_epoch is not None:
                on_epoch(history)
    return history


def _run_epoch(
    epoch, model, head, data, recipe, optimizer, scheduler, seed, steps, history, diagnose_every, bar
) -> Epoch:
    device = device_of(model)
    generator = torch.Generator().manual_seed(_mixed(seed, epoch))
    order = _order(len(data.train), steps, recipe, generator)
    model.train()
    head.train()
    losses, head_ms, aside, start = [], [], 0.0, time.perf_counter()
    lr = optimizer.param_groups[0]["lr"]
    for step, index in enumerate(order):
        inputs, labels = _batch(data.train, index, recipe, generator, device)
        loss, milliseconds, embeddings = train_step(model, head, optimizer, inputs, labels)
        if scheduler is not None:
            scheduler.step()
        losses.append(loss)
        head_ms.append(milliseconds)
        done = epoch * steps + step + 1
        if diagnose_every and done % diagnose_every == 0:
            begin = time.perf_counter()
            sample = head.diagnose(embeddings, labels)
            cost = time.perf_counter() - begin
            aside += cost
            history.diagnostics.append({"step": done, "epoch": epoch + 1, **sample, "cost_ms": cost * 1e3})
        bar.update()
        if step % 10 == 9:
            accuracy = f", accuracy {history.accuracy:.1%}" if history.epochs else ""
            bar.set_postfix_str(f"loss {np.mean(losses[-50:]):.3f}{accuracy}")
    seconds = time.perf_counter() - start - aside + (history.epochs[-1].seconds if history.epochs else 0.0)
    return Epoch(epoch + 1, seconds, float(np.mean(losses)), math.nan, median(head_ms), lr)


def _batch(train, index: Tensor, recipe: Recipe, generator: torch.Generator, device: torch.device):
    """The samples ``index`` as the model reads them, images augmented, and their labels [B], on the device."""
    inputs, labels = train.batch(index, generator) if getattr(train, "draws", False) else train.batch(index)
    if recipe.augmentation and are_images(inputs):
        return recipe.augmentation(inputs.to(device), generator), labels.to(device)
    return to_model(inputs, device), labels.to(device)


def train_step(model: nn.Module, head: nn.Module, optimizer, inputs, labels: Tensor) -> tuple[float, float, Tensor]:
    """One step on the inputs of B samples, as the model reads them, and labels [B]: the loss, the head's
    milliseconds, the embeddings [B, d].

    The optimizer steps twice, each time for the parameters that have a gradient: the head's, then the backbone's.
    """
    device = labels.device
    with autocast(device):
        embeddings = model(inputs)
    leaf = embeddings.detach().float().requires_grad_()
    wait_for(device)
    start = time.perf_counter()
    loss = head(leaf, labels)
    value = loss.item()
    if not math.isfinite(value):
        raise FloatingPointError(f"the loss is {value}: training has diverged; a smaller learning rate should help")
    loss.backward()
    optimizer.step()
    wait_for(device)
    milliseconds = (time.perf_counter() - start) * 1e3
    optimizer.zero_grad()
    embeddings.backward(leaf.grad.to(embeddings.dtype))
    optimizer.step()
    optimizer.zero_grad()
    return value, milliseconds, leaf.detach()


def _restore(path: Path, run: dict, parts: dict) -> History:
    """Load the checkpoint into model, head, optimizer and scheduler, if it belongs to this run."""
    saved = files.load(path)
    for name, value in run.items():
        if saved["run"].get(name) != value:
            raise ValueError(
                f"checkpoint is {path}, which is of another run: its {name} is {saved['run'].get(name)} "
                f"and should be {value}; call fit() as before or name another file"
            )
    for name, part in parts.items():
        if part is not None:
            part.load_state_dict(saved[name])
    return History.from_dict(saved["history"])


def _order(samples: int, steps: int, recipe: Recipe, generator: torch.Generator) -> list[Tensor]:
    """The batches of an epoch as index tensors; what is left over by whole batches waits for the next shuffle."""
    if recipe.steps_per_epoch is not None:
        return list(torch.randint(samples, (steps, recipe.batch_size), generator=generator))
    return list(torch.randperm(samples, generator=generator).split(recipe.batch_size))[:steps]


def _steps_per_epoch(samples: int, recipe: Recipe) -> int:
    if recipe.steps_per_epoch is not None:
        _check_numbers(steps_per_epoch=recipe.steps_per_epoch)
        return recipe.steps_per_epoch
    return max(1, samples // recipe.batch_size)


def _objective_name(head: nn.Module) -> str:
    return next((name for name, kind in OBJECTIVES.items() if type(head.objective) is kind), "cosface")


def _mixed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}; it should be a whole number of at least 1")
