"""``annsoftmax train`` without its command line: a job, which a TOML file or flags describe, and its run."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.distributed import ProcessGroup

from annsoftmax_ref import evaluation
from annsoftmax_ref.checks import check_from_0, check_positive_int
from annsoftmax_ref.experiments import tasks
from annsoftmax_ref.experiments.runs import EMBEDDING_SIZE, STORAGES
from annsoftmax_ref.factory import HEADS, make_head, make_selector, options_by_head
from annsoftmax_ref.head import SoftmaxHead
from annsoftmax_ref.machine.device import PRECISIONS, in_precision
from annsoftmax_ref.machine.processes import World, joined
from annsoftmax_ref.machine.stopping import StopRequest
from annsoftmax_ref.objectives import OBJECTIVES
from annsoftmax_ref.training import Recipe, build_optimizer, default_recipe

if TYPE_CHECKING:
    from annsoftmax_ref.training import Trainer

OPTIMIZERS = {"sgd": {}, "adamw": {"lr": 2e-3, "weight_decay": 1e-2}}  # and what is not the recipe's by default


def setting(default, kind: type, help_: str, choices=None, **more):
    """A field of ``Job``: its type, and what ``annsoftmax train --help`` says of it."""
    return dataclasses.field(default=default, metadata={"kind": kind, "help": help_, "choices": choices, **more})


@dataclass(frozen=True)
class Job:
    """All that a run is made of; the fields are the keys of a file and the flags of the command. None: the recipe's."""

    task: str = setting("glyphs", str, tasks.NAMES)
    head: str = setting("ann", str, "which classes a batch is scored against", list(HEADS))
    objective: str = setting("cosface", str, "the loss", list(OBJECTIVES))
    rate: float = setting(0.1, float, "part of the classes that a group is scored against")
    groups: int | None = setting(None, int, "active sets per batch; default: the head's own number")
    options: dict = setting(None, dict, "a further option of the head's selector, such as nprobe=32; may be repeated")
    scale: float | None = setting(None, float, "of the objective; default: the recipe's")
    margin: float | None = setting(None, float, "of the objective; default: the recipe's")
    dim: int = setting(EMBEDDING_SIZE, int, "numbers of an embedding")
    storage: str = setting("fp32", str, "of the head's weights and the optimizer's buffers", list(STORAGES))
    optimizer: str = setting("sgd", str, "of backbone and head", list(OPTIMIZERS))
    lr: float | None = setting(None, float, "the largest learning rate; default: the recipe's")
    weight_decay: float | None = setting(None, float, "of the backbone; default: the recipe's")
    warmup: float | None = setting(None, float, "part of the steps in which the learning rate rises")
    batch: int | None = setting(None, int, "samples of a step, on all processes together; default: the recipe's")
    epochs: int | None = setting(None, int, "default: the recipe's")
    steps: int | None = setting(None, int, "of an epoch; default: once through the data")
    augment: bool = setting(True, bool, "whether images are turned, sheared and shifted")
    seed: int = setting(0, int, "of all that is drawn")
    device: str = setting("auto", str, "auto, cpu or cuda")
    precision: str = setting("auto", str, "of the backbone; auto: bf16 where it is fast", list(PRECISIONS))
    checkpoints: str | None = setting(None, str, "where checkpoints go", metavar="FOLDER")
    resume: bool = setting(False, bool, "go on from the newest checkpoint there, if there is one")
    save_every: int | None = setting(
        None, int, "a checkpoint every so many steps; default: each epoch", metavar="STEPS"
    )
    keep: int = setting(2, int, "so many of the newest checkpoints stay")
    evaluate_every: int = setting(1, int, "test after so many epochs; 0: at the end alone", metavar="EPOCHS")
    log: str | None = setting(None, str, "where a log for TensorBoard goes", metavar="FOLDER")
    timeout: float = setting(300.0, float, "seconds after which a process that waits for another gives up")

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, checked(field, getattr(self, field.name)))
        object.__setattr__(self, "options", dict(self.options or {}))
        if self.resume and self.checkpoints is None:
            raise ValueError("resume is True but checkpoints is not given; name the folder to go on from")
        if self.optimizer == "adamw" and STORAGES[self.storage].momentum == torch.int8:
            raise ValueError(f"storage is {self.storage!r} with the optimizer adamw, whose averages need 16 bits")
        if not self.timeout > 0:
            raise ValueError(f"timeout is {self.timeout:g}; it should be above 0")

    @property
    def same(self) -> dict:
        """What a run that goes on with a checkpoint of this one must find equal: all that its numbers follow from."""
        free = ("device", "precision", "checkpoints", "resume", "save_every", "keep", "evaluate_every", "log")
        left_to_trainer = ("batch", "steps", "seed", "timeout")  # which knows them even where they are None here
        fields = dataclasses.asdict(self) | {"task": tasks.without_skip(self.task)}
        return {k: v for k, v in fields.items() if k not in (*free, *left_to_trainer)}

    def recipe(self) -> Recipe:
        recipe = default_recipe(self.objective)
        given = {
            "scale": self.scale,
            "margin": self.margin,
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "warmup": self.warmup,
            "batch_size": self.batch,
            "epochs": self.epochs,
            "steps_per_epoch": self.steps,
        }
        given = {name: value for name, value in given.items() if value is not None}
        return dataclasses.replace(
            recipe,
            **(OPTIMIZERS[self.optimizer] | given),
            momentum_in_8_bits=STORAGES[self.storage].momentum == torch.int8,
            augmentation=recipe.augmentation if self.augment else None,
        )


COUNTS = ("groups", "dim", "batch", "epochs", "steps", "save_every", "keep")
FROM_0 = ("seed", "evaluate_every")


def checked(field: dataclasses.Field, value):
    """The value of a job's field, or one sentence of what it should be."""
    kind, choices, name = field.metadata["kind"], field.metadata["choices"], field.name
    if value is None and field.default is None:
        return None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} is {value!r}; it should be {WORDS[kind]}")
    if choices and value not in choices:
        raise ValueError(f"{name} is {value!r}; it should be one of {', '.join(choices)}")
    if name in COUNTS:
        check_positive_int(name, value)
    return check_from_0(name, value) if name in FROM_0 else value


WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", dict: "a table"}


def read_config(path: str | os.PathLike) -> dict:
    """A TOML file -> fields of ``Job``; ``options`` is a table. ValueError for one that is broken or has other keys."""
    try:
        found = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ValueError(f"config is {path}, which cannot be read as TOML ({reason})") from error
    fields = {name.replace("-", "_"): value for name, value in found.items()}
    known = [field.name for field in dataclasses.fields(Job)]
    for name in fields:
        if name not in known:
            raise ValueError(f"config is {path}, which has the key {name!r}; keys are {', '.join(known)}")
    return fields


@dataclass
class Told:
    """What a run says of itself while it goes on; only process 0's is called.

    begun(trainer), on_step(steps done, loss), on_epoch(row).
    """

    begun: Callable = lambda trainer: None
    on_step: Callable = lambda step, loss: None
    on_epoch: Callable = lambda row: None


def run_job(job: Job, told: Told | None = None) -> dict:
    """Run or go on with a job, on this process or those of torchrun -> its row, on each of them.

    "finished" tells whether it came to its end; if not, "stopped_by" tells who stopped it, and "status" with which
    exit status that is answered. Raises what ``Trainer.run`` and the parts that it is made of raise, and
    ConnectionError where another process has ended.
    """
    with in_precision(job.precision), StopRequest() as stop, joined(job.device, job.timeout) as world:
        trainer = make_trainer(job, world, stop)
        try:
            trainer.begin(job.resume)
            if world.is_first and told is not None:
                trainer.on_step, trainer.on_epoch = told.on_step, told.on_epoch
                told.begun(trainer)
            trainer.run()
            metrics = trainer.measured(evaluation.evaluate) if trainer.finished else {}
        finally:
            if trainer.shelf is not None:
                trainer.shelf.close()
        return row_of(job, trainer, world, stop) | {"metrics": metrics}


def make_trainer(job: Job, world: World, stop: StopRequest | None = None) -> Trainer:
    """All that a job names, made, and nothing trained yet."""
    # Here, since every command reads this file and torch's distributed checkpoints take a second to import.
    from annsoftmax_ref.training import Trainer
    from annsoftmax_ref.training.sharded import Checkpoints

    recipe = job.recipe()
    options_by_head(job.options, [job.head])  # one that it has not is told
    # A wrong value is told before the data are loaded.
    make_selector(job.head, job.rate, job.groups, **job.options).check_objective(recipe.make_objective())
    data = tasks.load_task(job.task)
    model, head = make_parts(job, data, world.device, world.group)
    shelf = None if job.checkpoints is None else Checkpoints(job.checkpoints, world.group, job.keep)
    return Trainer(
        model,
        head,
        data,
        recipe,
        build_optimizer(model, head, recipe, job.optimizer),
        job.seed,
        shelf,
        job.save_every,
        job.evaluate_every,
        stop,
        job.same,
    )


def make_parts(job: Job, data, place: torch.device, group: ProcessGroup | None = None) -> tuple[nn.Module, SoftmaxHead]:
    """The job's backbone and head for its data, as they are before training."""
    model = tasks.make_model(data, job.dim, seed=job.seed)
    head = make_head(
        job.head,
        data.num_classes,
        job.dim,
        job.recipe().make_objective(),
        job.rate,
        job.groups,
        job.seed,
        dtype=STORAGES[job.storage].weight,
        process_group=group,
        **job.options,
    )
    return model.to(place), head.to(place)


def job_of_settings(settings: dict) -> Job:
    """The job that a checkpoint's settings are of, as far as they tell."""
    known = {field.name for field in dataclasses.fields(Job)} - {"steps"}  # those there are of the whole run
    return Job(**{name: value for name, value in settings.items() if name in known})


def row_of(job: Job, trainer: Trainer, world: World, stop: StopRequest) -> dict:
    history = trainer.history
    return {
        **dataclasses.asdict(job),
        "num_classes": trainer.data.num_classes,
        "ranks": world.ranks,
        "finished": trainer.finished,
        "stopped_by": None if trainer.finished else stop.name,
        "status": 0 if trainer.finished else stop.status,
        "step": trainer.step,
        "loss": history.epochs[-1].loss if history.epochs else None,
        "accuracy": history.epochs[-1].accuracy if history.epochs else None,
        "seconds": trainer.seconds,
        "history": history.to_dict()["epochs"],
        "device_used": str(world.device),
    }
