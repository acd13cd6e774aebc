"""The head: weights, a selector and an objective. ``loss = head(embeddings, labels)``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from annsoftmax_ref import rows
from annsoftmax_ref.active_sets import ActiveSets
from annsoftmax_ref.backend import uncompiled
from annsoftmax_ref.batch import ScoredBatches, mean_weights, no_loss, without_ignored
from annsoftmax_ref.captured import CapturedStep
from annsoftmax_ref.checks import (
    check_class_weights,
    check_ignore_index,
    check_instance,
    check_kind,
    check_positive_int,
    has_overflowed,
)
from annsoftmax_ref.class_changes import ClassChanges
from annsoftmax_ref.deferred import BatchCheck
from annsoftmax_ref.every_row import is_long, own_and_others, random_directions
from annsoftmax_ref.loss import add_offsets, scored_loss
from annsoftmax_ref.machine.device import warn_of_processes
from annsoftmax_ref.objectives import CrossEntropy, Objective
from annsoftmax_ref.prediction import Prediction
from annsoftmax_ref.row_optimizer import RowOptimizer
from annsoftmax_ref.row_parameter import RowParameter, row_state, unwatching, watch
from annsoftmax_ref.rows import unit_rows, unit_rows_at
from annsoftmax_ref.saving import register_hooks
from annsoftmax_ref.selectors import AllClasses, Selector
from annsoftmax_ref.sharded_loss import sharded_loss
from annsoftmax_ref.shards import Shards
from annsoftmax_ref.splitting import (
    IN_DDP,
    SPARSE_IN_DDP,
    directions_of_shard,
    refuse_making_ddp,
    refuse_replicas,
    split_over,
)


class SoftmaxHead(Prediction, ClassChanges):
    """The last layer of a classifier with many classes.

    ``weight [num_classes, embedding_size]`` is an ordinary parameter to read and to write, though rows of it may lag
    behind their optimizer (``annsoftmax_ref.row_parameter`` says what that costs and what it cannot see). With a
    sampling selector its gradient is row-sparse (``torch.sparse_coo``, sorted): train it with
    ``annsoftmax_ref.RowSGD`` or ``RowAdamW``, or with any torch optimizer that takes sparse gradients.
    ``torch.nn.utils.clip_grad_norm_`` takes it; DistributedDataParallel does not: there, ``sparse=False``. In eval mode
    the loss is over all classes, exactly.

    bias: a parameter ``bias [num_classes]``, at first 0, is added to the logits (CrossEntropy only); its gradient is
    row-sparse where the weight's is. Selectors choose the classes of largest cosine, not of largest biased logit.
    class_weights [num_classes], ignore_index: as in ``torch.nn.functional.cross_entropy``, for every objective. The
    loss is the mean weighted by the samples' own classes; samples whose label is ignore_index drop out before
    anything is selected, as if they were not in the batch. Where nothing is left the loss is 0 with gradients of 0
    (torch's is NaN). None: no label is ignored.
    sparse: False makes the gradients dense whatever the selector, for what takes no sparse ones.
    dtype: of the weight; bfloat16 takes half the memory, with its optimizer's buffers, and float8_e4m3fn a quarter
    (from torch 2.10 on, with sparse gradients); such are trained by RowSGD or RowAdamW, which round at random
    (``annsoftmax_ref.optim``). Bias and class_weights stay in float32.
    process_group: of torch.distributed, over whose processes the classes are split (``annsoftmax_ref.shards``): weight
    and bias hold the rows of this process, and every process calls the head with batches of its own, of any sizes. The
    loss is the mean over all of them, and so are its gradients. averaged: whether what trains the backbone divides its
    gradients by the number of processes, as DistributedDataParallel and FSDP2 do; the embeddings' gradients are
    multiplied by it then. The head itself stays outside of those. ``forward`` and ``topk`` are for all processes to
    call together; a batch that one of them cannot take is refused on all, in a sentence that names it.
    seed: of the initial weights and of every random choice of the selector. The generator's state is part of
    ``state_dict()``. Raises ValueError or TypeError, with nothing changed, for a batch it cannot take; on a GPU for its
    values when the backward pass begins (``annsoftmax_ref.deferred``). Embeddings in
    float16 may hold infinities: they have overflowed, the loss and its gradients are then NaN, and
    ``torch.amp.GradScaler`` skips the step. Inside ``torch.utils.checkpoint`` the second pass is scored against the
    classes of the first.
    """

    shards: Shards | None = None  # where the classes are split over processes

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        selector: Selector | None = None,
        objective: Objective | None = None,
        *,
        bias: bool = False,
        class_weights: Tensor | None = None,
        ignore_index: int | None = None,
        sparse: bool = True,
        seed: int = 0,
        device=None,
        dtype=torch.float32,
        process_group: ProcessGroup | None = None,
        averaged: bool = True,
    ):
        super().__init__()
        self.num_classes = check_positive_int("num_classes", num_classes)
        self.embedding_size = check_positive_int("embedding_size", embedding_size)
        self.objective = CrossEntropy() if objective is None else check_instance("objective", objective, Objective)
        self.selector = AllClasses() if selector is None else check_instance("selector", selector, Selector)
        self.ignore_index = check_ignore_index(ignore_index)
        self.sparse = check_kind(dtype, sparse)
        self.selector.check_objective(self.objective)
        self.objective.check_options(bias, class_weights is not None)
        fine = dtype if dtype == torch.float64 else torch.float32
        weights = None if class_weights is None else check_class_weights(class_weights, num_classes, fine)
        self.generator, self.averaged = torch.Generator().manual_seed(seed), averaged
        # Only a row's direction enters the logits. Length 1 makes a step of size lr turn it by about lr.
        if process_group is None:
            directions = random_directions(num_classes, embedding_size, self.generator, dtype, device)
        else:
            split_over(self, process_group, seed)
            directions = directions_of_shard(self.shards, embedding_size, seed, dtype, device)
            weights = None if weights is None else weights[self.shards.first : self.shards.last].clone()
        self.weight = RowParameter(directions)
        self.bias = RowParameter(torch.zeros(len(directions), dtype=fine)) if bias else None
        # After all checks: a selector is bound once, and what was refused is to leave it free.
        if len(directions):
            self.selector.bind(len(directions), self.embedding_size, self.objective.scale)
        self.register_buffer("class_weights", weights)
        self._scored, self._check = ScoredBatches(), BatchCheck()
        self.to(device=device)
        for parameter in self.parameters(recurse=False):
            row_state(parameter).split = process_group is not None  # and from now on, what others write is noticed
        register_hooks(self)

    @uncompiled
    @unwatching
    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings [B, d] finite, labels [B] int64 in [0, N) -> mean loss, a scalar. B may be any size."""
        refuse_replicas(self)
        if self.shards is not None:
            return sharded_loss(self, embeddings, labels)
        given = embeddings
        embeddings, labels = without_ignored(embeddings, labels, self.ignore_index)
        if embeddings is not given and len(embeddings) == 0:
            return self._no_loss(given)
        if self.training and has_overflowed(embeddings, self.embedding_size):
            return self._no_loss(embeddings, torch.nan)
        labels = self._check(embeddings, labels, self.embedding_size, self.num_classes).contiguous()
        return self._check.before_backward(self._loss_of(unit_rows(embeddings), labels))

    def _loss_of(self, x: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of unit embeddings x [B, d]."""
        if not self.training:
            return self._loss_over_all(x, labels, self.generator)
        scored = self._scored.again(x, labels)
        if scored is None:
            active = None if self.selector.takes_all else self.active_sets(x.detach(), labels)
            scored = self._scored.remember(x, labels, active, self.generator)
        if scored.active is None:
            return self._loss_over_all(x, labels, scored.generator)
        return self.loss_over(x, scored.active, scored.generator)

    def captured_step(self, optimizer: RowOptimizer) -> CapturedStep:
        """The head's whole step, its optimizer's included, as one CUDA graph: ``step(embeddings, labels).backward()``.

        See ``annsoftmax_ref.captured``. Raises ValueError or TypeError for options and optimizers that it cannot take.
        """
        self._check_whole("captured_step")
        return CapturedStep(self, optimizer)

    def checked(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The labels, for kernels to take: the host has waited for the look at the batch. Raises as ``forward``."""
        labels = self._check(embeddings, labels, self.embedding_size, self.num_classes)
        self._check.answer()
        return labels.contiguous()

    def active_sets(self, x: Tensor, labels: Tensor) -> ActiveSets:
        """Those that the selector chooses for unit embeddings x [B, d] in a step of training."""
        if self.shards is None:  # else all processes' labels have been looked at together
            warn_of_processes()
            self.selector.check_budget(labels)
        # What a selector keeps is to be changed again later, which torch forbids for tensors made in inference mode.
        with torch.inference_mode(False), torch.no_grad():
            self.selector.prepare(self.weight, self.generator)
        active = self.selector.select(x, labels, self.weight, self.generator)
        if torch.is_grad_enabled():
            self.selector.observe(x, active, self.weight, self.generator)
        return active

    def _loss_over_all(self, x: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        weights = None if self.class_weights is None else mean_weights(self.class_weights, labels)
        if is_long(self.weight) and self.objective.others_as_one and not self.objective.needs_all_classes:
            sums = own_and_others(x, self.weight, labels, self.objective.scale, self._all_biases())
            losses = self.objective.loss_of_sums(*sums)
            return (losses / len(x) if weights is None else losses * weights).sum()
        return self._part_loss(x, self._all_rows(), labels, self._all_biases(), weights, len(x), generator)

    @unwatching
    def loss_over(
        self,
        x: Tensor,
        active: ActiveSets,
        generator: torch.Generator | None = None,
        directions: Tensor | None = None,
    ) -> Tensor:
        """Mean loss of unit embeddings x [B, d] over given active sets, with a row-sparse weight gradient.

        generator: of what the objective draws; default, the head's. directions [G, A, d]: the classes' rows of length
        1, of a head without a bias, if they have been read already; then the gradient is theirs.
        """
        generator = self.generator if generator is None else generator
        biases = None
        if directions is None:
            directions, biases = self._read(active, x)
        weights = None if self.class_weights is None else mean_weights(self.class_weights, active.labels())
        return self._part_loss(
            active.of_samples(x),
            directions,
            active.targets,
            add_offsets(biases, active.log_weights),
            None if weights is None else active.of_samples(weights),
            len(x),
            generator,
            active.far,
        )

    def _read(self, active: ActiveSets, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The active classes' directions [G, A, d], and their biases [G, A] or None, for products with x."""
        named = rows.name_rows(active.classes, self.num_classes)
        if self.sparse:
            directions = unit_rows_at(self.weight, named, rows.autocasts(x))  # [G, A, d]
            biases = None if self.bias is None else named.each(rows.gather_rows(self.bias, named.ids))  # [G, A]
        else:
            rows.catch_up(self.weight, named.ids)
            directions = named.each(unit_rows(self.weight[named.ids]))
            biases = None if self.bias is None else named.each(self.bias[named.ids])
        return directions, biases

    def _part_loss(self, x, directions, targets, offset, weights, batch: int, generator, far=None) -> Tensor:
        """What samples add to the mean over the batch; weights are their parts of it, None: 1 / batch each."""
        share = 1 / batch if weights is None else 1.0
        return scored_loss(x, directions, targets, self.objective, share, offset, weights, generator, far)

    def _no_loss(self, embeddings: Tensor, factor: float = 0.0) -> Tensor:
        return no_loss(embeddings, (self.weight, self.bias), self._is_sparse(), factor)

    def _is_sparse(self) -> bool:
        """Whether the gradients of weight and bias are row-sparse just now."""
        return self.sparse and self.training and not self.selector.takes_all

    @unwatching
    @torch.inference_mode(False)
    @torch.no_grad()
    def sync(self) -> None:
        """Bring lagging rows of the weight, and the selector's index, up to date."""
        rows.catch_up(self.weight)
        self._all_biases()
        self.selector.sync(self.weight)

    def _all_rows(self) -> Tensor:
        rows.catch_up(self.weight)
        return unit_rows(self.weight)

    def _all_biases(self) -> Tensor | None:
        if self.bias is not None:
            rows.catch_up(self.bias)
        return self.bias

    def named_parameters(self, *arguments, **named):
        """As nn.Module's. ValueError if it is DistributedDataParallel that asks, for what it cannot take."""
        if self.shards is not None:
            refuse_making_ddp(IN_DDP)
        elif self.sparse and not self.selector.takes_all and self.weight.requires_grad:
            refuse_making_ddp(SPARSE_IN_DDP)
        return super().named_parameters(*arguments, **named)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As nn.Module's; a weight that is put in place of the head's own is watched as that was."""
        super().register_parameter(name, param if param is None else watch(param))

    def get_extra_state(self) -> Tensor:
        return self.generator.get_state()  # a tensor, as all that people do with state_dict() asks for

    def set_extra_state(self, state: Tensor | dict) -> None:
        # Heads saved by an earlier version have a dict there.
        self.generator.set_state((state["generator"] if isinstance(state, dict) else state).cpu())

    def __getstate__(self) -> dict:
        # copy.deepcopy and pickle: the copy has no optimizer, so nothing may be left to catch up.
        self.sync()
        return self.__dict__ | {"generator": self.generator.get_state(), "class_index": None}

    def __setstate__(self, state: dict) -> None:
        generator = torch.Generator()
        generator.set_state(state["generator"])
        super().__setstate__({**state, "generator": generator})
        self._buffers.setdefault("class_ids", None)  # of a head that was pickled before there were any
        self._buffers.setdefault("ids_given", None)
        for parameter in self.parameters(recurse=False):
            row_state(parameter).split = self.shards is not None

    def extra_repr(self) -> str:
        return f"{self.num_classes}, {self.embedding_size}"
