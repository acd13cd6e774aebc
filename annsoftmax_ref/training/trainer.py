"""``Trainer``: one run on one process or on many, which can be stopped after any step, and goes on from there.

Nothing that is drawn is remembered. The order of an epoch follows from (seed, epoch) and is the same on all processes,
each of which takes its slice of every batch; augmentation follows from (seed, step, rank), the learning rate from the
step. So a run that goes on from a checkpoint on as many processes as have written it takes the same steps, bit for
bit, as if it had never been interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from annsoftmax_ref import evaluation
from annsoftmax_ref.machine.device import device_of
from annsoftmax_ref.machine.stopping import StopRequest
from annsoftmax_ref.splitting import seed_of
from annsoftmax_ref.training.batches import epoch_generator, make_batch, order_of_epoch, steps_of
from annsoftmax_ref.training.history import Epoch, History
from annsoftmax_ref.training.recipe import Recipe, build_optimizer, rate_factor
from annsoftmax_ref.training.sharded import Checkpoints, TrainingState
from annsoftmax_ref.training.step import train_step


@dataclass
class Trainer:
    """Train ``model`` (to embeddings [B, d]) and ``head`` on ``data.train``, by the recipe; data: as ``fit``'s.

    head: its classes may be split over processes (``process_group``), which then all make a Trainer, with the same
    arguments and the same model; the recipe's batch is that of all of them together. The model is put into
    DistributedDataParallel here.
    optimizer: default, the recipe's; its learning rates are set in each step.
    shelf: where checkpoints go, every ``save_every`` steps (None: after each epoch), at the end, and when it is
    stopped. evaluate_every: epochs; 0 for never. stop: asked after each step, see ``machine.stopping``.
    settings: what else must be equal in a run that goes on with a checkpoint of this one.
    on_step(steps done, loss), on_epoch(row): called on every process.
    """

    model: nn.Module
    head: nn.Module
    data: Any
    recipe: Recipe
    optimizer: Any = None
    seed: int = 0
    shelf: Checkpoints | None = None
    save_every: int | None = None
    evaluate_every: int = 1
    stop: StopRequest | None = None
    settings: dict = field(default_factory=dict)
    on_step: Callable[[int, float], None] | None = None
    on_epoch: Callable[[Epoch], None] | None = None

    def __post_init__(self):
        self.shards = self.head.shards
        self.rank, self.ranks = (0, 1) if self.shards is None else (self.shards.rank, self.shards.ranks)
        if self.recipe.batch_size < 2 * self.ranks:
            raise ValueError(
                f"batch is {self.recipe.batch_size} for {self.ranks} processes; it should be at least "
                f"{2 * self.ranks}, two samples each, as a batch normalisation needs"
            )
        if len(self.data.train) < self.recipe.batch_size and self.recipe.steps_per_epoch is None:
            raise ValueError(
                f"batch is {self.recipe.batch_size}, more than the {len(self.data.train)} samples that there are; "
                "make it smaller, or give a number of steps, whose batches are drawn with repetition"
            )
        self.optimizer = self.optimizer or build_optimizer(self.model, self.head, self.recipe)
        self.step, self.history = 0, History()
        self._loss_sum, self._head_ms = 0.0, []
        self.seconds = 0.0  # of training, without tests and saving
        self._network = self.model
        if self.shards is not None:
            self._network = DistributedDataParallel(self.model, process_group=self.shards.group)
        self._order: tuple[int, list[Tensor]] = (-1, [])

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return steps_of(self.data, self.recipe)

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.steps * self.recipe.epochs

    @property
    def finished(self) -> bool:
        return self.step == self.total

    @property
    def stopping(self) -> bool:
        """Whether somebody has asked for it; equal on all processes, between the same two steps."""
        if self.shards is None:
            return self.stop is not None and self.stop.wanted
        return self.head.agreement.stopping

    @property
    def lr(self) -> float:
        """The learning rate of the step last taken."""
        return self.recipe.lr * rate_factor(max(0, self.step - 1), self.recipe, self.total)

    def run(self) -> History:
        """Train to the end, or until it is stopped; ``finished`` tells which.

        Raises FloatingPointError if the loss is no longer finite.
        """
        self.model.train()
        self.head.train()
        saved = self.step
        while not self.finished and not self.stopping:
            self._take_step()
            if self.step % self.steps == 0:
                self._end_epoch()
            due = self.step % (self.save_every or self.steps) == 0
            if self.shelf is not None and (due or self.finished or self.stopping):
                self._save(wait=self.finished or self.stopping)
                saved = self.step
        if self.shelf is not None:
            self.shelf.wait()
            if self.stopping and saved != self.step:
                self._save(wait=True)
        return self.history

    def begin(self, resume: bool = False) -> None:
        """Before ``run``: if ``resume``, go on from the shelf's newest checkpoint, if there is one; and claim it.

        Raises ValueError, with nothing changed, for a checkpoint that is broken or of another run, and for a shelf
        that has one already if ``resume`` is False.
        """
        if self.shelf is None:
            return
        latest = self.shelf.latest()
        if latest is not None and not resume:
            raise ValueError(
                f"checkpoints is {self.shelf.folder}, which has one of step {latest} already; add --resume (resume="
                "True) to go on from it, or name another folder"
            )
        if latest is not None:
            self._put(self.shelf.load(self._state()))
        self.shelf.claim()

    def _take_step(self) -> None:
        epoch, place = divmod(self.step, self.steps)
        index = self._epoch_order(epoch)[place].tensor_split(self.ranks)[self.rank]
        seed = seed_of(self.seed, self.step, self.rank)
        torch.manual_seed(seed)  # of what the backbone may draw, dropout for instance
        start = time.perf_counter()
        inputs, labels = make_batch(
            self.data.train, index, self.recipe, torch.Generator().manual_seed(seed), device_of(self.model)
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.lr * rate_factor(self.step, self.recipe, self.total)
        if self.shards is not None and self.stop is not None:
            self.head.agreement.wants_stop = self.stop.wanted
        loss, milliseconds, _ = train_step(self._network, self.head, self.optimizer, inputs, labels)
        self._average_buffers()
        self.step += 1
        self.seconds += time.perf_counter() - start
        self._loss_sum += loss
        self._head_ms.append(milliseconds)
        if self.on_step is not None:
            self.on_step(self.step, loss)

    def _epoch_order(self, epoch: int) -> list[Tensor]:
        if self._order[0] != epoch:
            self._order = (epoch, order_of_epoch(self.data, self.recipe, epoch_generator(self.seed, epoch)))
        return self._order[1]

    def _average_buffers(self) -> None:
        """The backbone's running means, over the processes: each has seen another part of the batch."""
        buffers = [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]
        if self.shards is None or not buffers:
            return
        together = torch.cat([buffer.flatten() for buffer in buffers])
        dist.all_reduce(together, group=self.shards.group)
        together /= self.ranks
        for buffer, part in zip(buffers, together.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(part.view_as(buffer))

    def _end_epoch(self) -> None:
        epoch = self.step // self.steps
        state = self._state()
        state.bring_up_to_date()  # tested and saved or not: so that all give the same bits
        tested = self.evaluate_every and (epoch % self.evaluate_every == 0 or self.finished)
        row = Epoch(
            epoch=epoch,
            seconds=self.seconds,
            loss=self._loss_sum / self.steps,
            accuracy=self.measured(evaluation.score) if tested else None,
            head_ms=median(self._head_ms),  # of the steps since the run last began
            lr=self.recipe.lr * rate_factor(self.step - self.steps, self.recipe, self.total),
        )
        self.history.epochs.append(row)
        self._loss_sum, self._head_ms = 0.0, []
        if self.on_epoch is not None:
            self.on_epoch(row)

    def measured(self, measure: Callable):
        """measure(model, head, data), ``evaluation.score`` or ``evaluation.evaluate``, for all processes to call.

        Where it is of embeddings alone, process 0 measures, and the others wait for it.
        """
        alone = getattr(self.data, "split", "") == "embedding"
        result = None if alone and self.rank else measure(self.model, self.head, self.data)
        if alone and self.shards is not None:
            said = [result]
            dist.broadcast_object_list(said, group_src=0, group=self.shards.host_group, device=torch.device("cpu"))
            result = said[0]
        return result

    def _state(self) -> TrainingState:
        settings = {**self.settings, "seed": self.seed, "samples": len(self.data.train), "steps": self.total}
        settings["batch"] = self.recipe.batch_size
        return TrainingState(self.model, self.head, {"rows": self.optimizer}, settings=settings)

    def _save(self, wait: bool) -> None:
        position = {
            "step": self.step,
            "loss_sum": self._loss_sum,
            "seconds": self.seconds,
            "history": self.history.to_dict(),
        }
        self.shelf.save(self.step, self._state(), position, wait=wait)

    def _put(self, position: dict) -> None:
        self.step, self.history = position["step"], History.from_dict(position["history"])
        self._loss_sum, self.seconds = position["loss_sum"], position["seconds"]
