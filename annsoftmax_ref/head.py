"""The head: weights, a selector and an objective. ``loss = head(embeddings, labels)``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from annsoftmax_ref import rows
from annsoftmax_ref.active_sets import ActiveSet
from annsoftmax_ref.checks import (
    check_class_weights,
    check_embeddings,
    check_ignore_index,
    check_labels,
    check_positive_int,
)
from annsoftmax_ref.diagnostics import diagnose
from annsoftmax_ref.loss import add_offsets, mean_weights, scored_loss, without_ignored
from annsoftmax_ref.nearest import NearestClasses
from annsoftmax_ref.objectives import CosFace, CrossEntropy, Objective
from annsoftmax_ref.rows import cosines, take_parts, unit_rows, unit_rows_at
from annsoftmax_ref.selectors import AllClasses, Selector


class SoftmaxHead(nn.Module):
    """The last layer of a classifier with many classes.

    ``weight [num_classes, embedding_size]`` is an ordinary parameter. With a sampling selector its gradient is
    row-sparse (``torch.sparse_coo``, sorted): train it with ``annsoftmax_ref.RowSGD`` or ``RowAdamW``, or with
    any torch optimizer that takes sparse gradients. In eval mode the loss is over all classes, exactly.

    bias: a parameter ``bias [num_classes]``, at first 0, is added to the logits (CrossEntropy only); its gradient is
    row-sparse where the weight's is. Selectors choose the classes of largest cosine, not of largest biased logit.
    class_weights [num_classes], ignore_index: as in ``torch.nn.functional.cross_entropy``, for every objective. The
    loss is the mean weighted by the samples' own classes; samples whose label is ignore_index drop out before
    anything is selected, as if they were not in the batch. Where nothing is left the loss is 0 with gradients of 0
    (torch's is NaN). None: no label is ignored.
    sparse: False makes the gradients dense whatever the selector, for optimizers that take no sparse ones.
    seed: of the initial weights and of every random choice of the selector. The generator's state is part of
    ``state_dict()``. Raises ValueError or TypeError, with nothing changed, for a batch it cannot take.
    """

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
    ):
        super().__init__()
        self.num_classes = check_positive_int("num_classes", num_classes)
        self.embedding_size = check_positive_int("embedding_size", embedding_size)
        self.objective = CrossEntropy() if objective is None else objective
        self.selector = AllClasses() if selector is None else selector
        self.ignore_index = check_ignore_index(ignore_index)
        self.sparse = sparse
        self.selector.check_objective(self.objective)
        self.objective.check_options(bias, class_weights is not None)
        self.generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(num_classes, embedding_size, generator=self.generator, dtype=dtype)
        # Only a row's direction enters the logits. Length 1 makes a step of size lr turn it by about lr.
        self.weight = nn.Parameter(F.normalize(directions, dim=1))
        self.bias = nn.Parameter(torch.zeros(num_classes, dtype=dtype)) if bias else None
        weights = None if class_weights is None else check_class_weights(class_weights, num_classes, dtype)
        # After all checks: a selector is bound once, and what was refused is to leave it free.
        self.selector.bind(num_classes, embedding_size, self.objective.scale)
        self.register_buffer("class_weights", weights)
        self.to(device=device)
        self.register_state_dict_pre_hook(lambda head, prefix, keep_vars: head.sync())
        self.register_load_state_dict_pre_hook(lambda head, *_: head.sync())

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings [B, d] finite, labels [B] int64 in [0, N) -> mean loss, a scalar. B may be any size."""
        given = embeddings
        embeddings, labels = without_ignored(embeddings, labels, self.ignore_index)
        if embeddings is not given and len(embeddings) == 0:
            return self._no_loss(given)
        check_embeddings(embeddings, self.embedding_size)
        check_labels(labels, len(embeddings), self.num_classes)
        x = unit_rows(embeddings)
        if not self.training or isinstance(self.selector, AllClasses):
            weights = None if self.class_weights is None else mean_weights(self.class_weights, labels)
            return self._part_loss(x, self._all_rows(), labels, self._all_biases(), weights, len(x))
        self.selector.check_budget(labels)
        self.selector.prepare(self.weight, self.generator)
        active = self.selector.select(x.detach(), labels, self.weight, self.generator)
        if torch.is_grad_enabled():
            self.selector.observe(x.detach(), active, self.weight, self.generator)
        return self.loss_over(x, active)

    def loss_over(self, x: Tensor, active: list[ActiveSet]) -> Tensor:
        """Mean loss of unit embeddings x [B, d] over given active sets, with a row-sparse weight gradient."""
        union = _union_of(active, self.num_classes)
        if torch.is_grad_enabled():
            self.selector.rows_moved(union)
        half = torch.is_autocast_enabled(x.device.type) and torch.get_autocast_dtype(x.device.type) == torch.bfloat16
        if self.sparse:
            directions = unit_rows_at(self.weight, union, half)  # [U, d]
            biases = None if self.bias is None else rows.gather_rows(self.bias, union)  # [U]
        else:
            directions = unit_rows(self.weight[union])
            biases = None if self.bias is None else self.bias[union]
        weights = None if self.class_weights is None else mean_weights(self.class_weights, _labels_of(active, len(x)))
        if len(active) == 1:
            # The samples of a single group are the batch in its order.
            offset = add_offsets(biases, active[0].log_weights)
            return self._part_loss(x, directions, active[0].targets, offset, weights, len(x))
        places = [torch.searchsorted(union, group.classes) for group in active]
        losses = [
            self._part_loss(
                x.index_select(0, group.samples),
                part,
                group.targets,
                add_offsets(None if biases is None else biases.index_select(0, place), group.log_weights),
                None if weights is None else weights.index_select(0, group.samples),
                len(x),
            )
            for group, place, part in zip(active, places, take_parts(directions, places), strict=True)
        ]
        return torch.stack(losses).sum()

    def _part_loss(self, x, directions, targets, offset, weights, batch: int) -> Tensor:
        """What some samples [b] add to the mean over the batch; weights [b] are their parts of it, None: 1 / batch."""
        share = 1 / batch if weights is None else 1.0
        return scored_loss(x, directions, targets, self.objective, share, offset, weights, self.generator)

    def _no_loss(self, embeddings: Tensor) -> Tensor:
        """0, with gradients of 0 for embeddings [B, d] and parameters: nothing was left to score."""
        total = embeddings[:0].sum(dtype=torch.promote_types(embeddings.dtype, torch.float32))
        sampled = self.training and not isinstance(self.selector, AllClasses)
        first = torch.zeros(1, dtype=torch.int64, device=self.weight.device)
        if sampled and torch.is_grad_enabled():
            self.selector.rows_moved(first)
        for part in (self.weight, self.bias):
            if part is not None:
                total = total + 0 * (rows.gather_rows(part, first) if sampled else part[:1]).sum()
        return total

    def logits(self, embeddings: Tensor, classes: Tensor | None = None) -> Tensor:
        """embeddings [B, d] -> scale * cosine (+ bias) [B, N], or [B, n] for classes [n] int64; no margin."""
        check_embeddings(embeddings, self.embedding_size)
        if classes is None:
            logits, biases = self.objective.scale * cosines(unit_rows(embeddings), self._all_rows()), self._all_biases()
            return logits if biases is None else logits + biases
        if classes.dim() != 1 or classes.dtype != torch.int64 or len(classes) == 0:
            raise ValueError(
                f"classes has shape {list(classes.shape)} and type {classes.dtype}; it should be [n] int64, n >= 1"
            )
        check_labels(classes, len(classes), self.num_classes)
        rows.catch_up(self.weight, classes.unique())
        logits = self.objective.scale * cosines(unit_rows(embeddings), unit_rows(self.weight[classes]))
        return logits if self.bias is None else logits + self._all_biases()[classes]

    @torch.no_grad()
    def topk(self, embeddings: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """The k classes of largest cosine, over all classes: cosines [B, k], classes [B, k].

        With a bias, of largest logit: cosine + bias / scale stands in the cosine's place.
        """
        check_embeddings(embeddings, self.embedding_size)
        if not 1 <= check_positive_int("k", k) <= self.num_classes:
            raise ValueError(f"k is {k}; it should be at most the number of classes, {self.num_classes}")
        scores, biases = cosines(unit_rows(embeddings), self._all_rows()), self._all_biases()
        best = (scores if biases is None else scores + biases / self.objective.scale).topk(k, dim=1)
        return best.values, best.indices

    @torch.no_grad()
    def prototypes(self) -> Tensor:
        """Each class's direction [N, d], length 1, as a copy."""
        return self._all_rows().clone()

    def diagnose(self, embeddings: Tensor, labels: Tensor, k: int = 50) -> dict[str, float | None]:
        """How good the active sets are just now; see ``annsoftmax_ref.diagnostics.diagnose``."""
        return diagnose(self, *without_ignored(embeddings, labels, self.ignore_index), k)

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

    def get_extra_state(self) -> dict:
        return {"generator": self.generator.get_state()}

    def set_extra_state(self, state: dict) -> None:
        self.generator.set_state(state["generator"].cpu())

    def __getstate__(self) -> dict:
        # copy.deepcopy and pickle: the copy has no optimizer, so nothing may be left to catch up.
        self.sync()
        state = super().__getstate__() if hasattr(super(), "__getstate__") else self.__dict__
        state = dict(state)
        state["generator"] = self.generator.get_state()
        return state

    def __setstate__(self, state: dict) -> None:
        generator = torch.Generator()
        generator.set_state(state["generator"])
        super().__setstate__({**state, "generator": generator})

    def extra_repr(self) -> str:
        return f"{self.num_classes}, {self.embedding_size}"


class ANNSoftmax(SoftmaxHead):
    """The head with ``NearestClasses``: ``ANNSoftmax(num_classes, embedding_size, sample_rate=0.1)``.

    Further keyword arguments (groups, nlist, nprobe, candidates, ...) go to ``NearestClasses``.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        objective: Objective | None = None,
        *,
        sample_rate: float = 0.1,
        bias: bool = False,
        class_weights: Tensor | None = None,
        ignore_index: int | None = None,
        seed: int = 0,
        device=None,
        dtype=torch.float32,
        **nearest,
    ):
        super().__init__(
            num_classes,
            embedding_size,
            NearestClasses(sample_rate, **nearest),
            CosFace() if objective is None else objective,
            bias=bias,
            class_weights=class_weights,
            ignore_index=ignore_index,
            seed=seed,
            device=device,
            dtype=dtype,
        )


def _union_of(active: list[ActiveSet], num_classes: int) -> Tensor:
    """Every class of any active set, ascending."""
    if len(active) == 1:
        return active[0].classes
    member = torch.zeros(num_classes, dtype=torch.bool, device=active[0].classes.device)
    for group in active:
        member[group.classes] = True
    return member.nonzero().squeeze(1)


def _labels_of(active: list[ActiveSet], batch: int) -> Tensor:
    """The labels [B] that active sets were made for."""
    labels = active[0].classes.new_empty(batch)
    for group in active:
        labels[group.samples] = group.classes[group.targets]
    return labels
