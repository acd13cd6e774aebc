"""The head: weights, a selector and an objective. ``loss = head(embeddings, labels)``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from annsoftmax_ref import rows
from annsoftmax_ref.active_sets import ActiveSet
from annsoftmax_ref.checks import check_embeddings, check_labels, check_positive_int
from annsoftmax_ref.diagnostics import diagnose
from annsoftmax_ref.loss import scored_loss
from annsoftmax_ref.objectives import CosFace, CrossEntropy, Objective, make_objective
from annsoftmax_ref.rows import cosines, take_parts, unit_rows, unit_rows_at
from annsoftmax_ref.selectors import AllClasses, NearestClasses, RandomClasses, Selector


class SoftmaxHead(nn.Module):
    """The last layer of a classifier with many classes.

    ``weight [num_classes, embedding_size]`` is an ordinary parameter. With a sampling selector its gradient is
    row-sparse (``torch.sparse_coo``, sorted): train it with ``annsoftmax_ref.RowSGD`` or ``RowAdamW``, or with
    any torch optimizer that takes sparse gradients. In eval mode the loss is over all classes, exactly.

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
        seed: int = 0,
        device=None,
        dtype=torch.float32,
    ):
        super().__init__()
        self.num_classes = check_positive_int("num_classes", num_classes)
        self.embedding_size = check_positive_int("embedding_size", embedding_size)
        self.objective = CrossEntropy() if objective is None else objective
        self.selector = AllClasses() if selector is None else selector
        self.selector.bind(num_classes, embedding_size, self.objective.scale)
        self.generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(num_classes, embedding_size, generator=self.generator, dtype=dtype)
        # Only a row's direction enters the logits. Length 1 makes a step of size lr turn it by about lr.
        self.weight = nn.Parameter(F.normalize(directions, dim=1))
        self.to(device=device)
        self.register_state_dict_pre_hook(lambda head, prefix, keep_vars: head.sync())
        self.register_load_state_dict_pre_hook(lambda head, *_: head.sync())

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings [B, d] finite, labels [B] int64 in [0, N) -> mean loss, a scalar. B may be any size."""
        check_embeddings(embeddings, self.embedding_size)
        check_labels(labels, len(embeddings), self.num_classes)
        x = unit_rows(embeddings)
        if not self.training or isinstance(self.selector, AllClasses):
            return scored_loss(x, self._all_rows(), labels, self.objective, 1 / len(x))
        self.selector.check_budget(labels)
        self.selector.prepare(self.weight, self.generator)
        active = self.selector.select(x.detach(), labels, self.weight, self.generator)
        return self.loss_over(x, active)

    def loss_over(self, x: Tensor, active: list[ActiveSet]) -> Tensor:
        """Mean loss of unit embeddings x [B, d] over given active sets, with a row-sparse weight gradient."""
        union = _union_of(active, self.num_classes)
        if torch.is_grad_enabled():
            self.selector.rows_moved(union)
        half = torch.is_autocast_enabled(x.device.type) and torch.get_autocast_dtype(x.device.type) == torch.bfloat16
        directions = unit_rows_at(self.weight, union, half)  # [U, d]
        if len(active) == 1:
            # The samples of a single group are the batch in its order.
            return scored_loss(x, directions, active[0].targets, self.objective, 1 / len(x), active[0].log_weights)
        parts = take_parts(directions, [torch.searchsorted(union, group.classes) for group in active])
        losses = [
            scored_loss(
                x.index_select(0, group.samples), part, group.targets, self.objective, 1 / len(x), group.log_weights
            )
            for group, part in zip(active, parts, strict=True)
        ]
        return torch.stack(losses).sum()

    def logits(self, embeddings: Tensor, classes: Tensor | None = None) -> Tensor:
        """embeddings [B, d] -> scale * cosine [B, N], or [B, n] for classes [n] int64; no margin."""
        check_embeddings(embeddings, self.embedding_size)
        if classes is None:
            return self.objective.scale * cosines(unit_rows(embeddings), self._all_rows())
        if classes.dim() != 1 or classes.dtype != torch.int64 or len(classes) == 0:
            raise ValueError(
                f"classes has shape {list(classes.shape)} and type {classes.dtype}; it should be [n] int64, n >= 1"
            )
        check_labels(classes, len(classes), self.num_classes)
        rows.catch_up(self.weight, classes.unique())
        return self.objective.scale * cosines(unit_rows(embeddings), unit_rows(self.weight[classes]))

    @torch.no_grad()
    def topk(self, embeddings: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """The k classes of largest cosine, over all classes: cosines [B, k], classes [B, k]."""
        check_embeddings(embeddings, self.embedding_size)
        if not 1 <= check_positive_int("k", k) <= self.num_classes:
            raise ValueError(f"k is {k}; it should be at most the number of classes, {self.num_classes}")
        best = cosines(unit_rows(embeddings), self._all_rows()).topk(k, dim=1)
        return best.values, best.indices

    @torch.no_grad()
    def prototypes(self) -> Tensor:
        """Each class's direction [N, d], length 1, as a copy."""
        return self._all_rows().clone()

    def diagnose(self, embeddings: Tensor, labels: Tensor, k: int = 50) -> dict[str, float | None]:
        """How good the active sets are just now; see ``annsoftmax_ref.diagnostics.diagnose``."""
        return diagnose(self, embeddings, labels, k)

    def sync(self) -> None:
        """Bring lagging rows of the weight, and the selector's index, up to date."""
        rows.catch_up(self.weight)
        self.selector.sync(self.weight)

    def _all_rows(self) -> Tensor:
        rows.catch_up(self.weight)
        return unit_rows(self.weight)

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
            seed=seed,
            device=device,
            dtype=dtype,
        )


HEADS = ("full", "random", "ann", "lsh", "forest", "knn")
DEFAULT_HEADS = HEADS[:3]  # those that a comparison trains unless told otherwise


def make_selector(name: str, rate: float = 0.1, groups: int = 8) -> Selector:
    """The selector behind a head's name in tables and on the command line (one of ``HEADS``)."""
    if name == "full":
        return AllClasses()
    if name == "random":
        return RandomClasses(rate)
    if name == "ann":
        return NearestClasses(rate, groups)
    from annsoftmax_ref import rivals

    makers = {"lsh": rivals.LSHClasses, "forest": rivals.ForestClasses, "knn": rivals.LabelGraphClasses}
    if name in makers:
        return makers[name](rate)
    raise ValueError(f"head is {name!r}; it should be one of {', '.join(HEADS)}")


def make_head(
    name: str,
    num_classes: int,
    embedding_size: int,
    objective: str | Objective = "cosface",
    rate: float = 0.1,
    groups: int = 8,
    seed: int = 0,
) -> SoftmaxHead:
    """A head by its name (one of ``HEADS``) and its objective's name (or an objective)."""
    if isinstance(objective, str):
        objective = make_objective(objective)
    return SoftmaxHead(num_classes, embedding_size, make_selector(name, rate, groups), objective, seed=seed)


def _union_of(active: list[ActiveSet], num_classes: int) -> Tensor:
    """Every class of any active set, ascending."""
    if len(active) == 1:
        return active[0].classes
    member = torch.zeros(num_classes, dtype=torch.bool, device=active[0].classes.device)
    for group in active:
        member[group.classes] = True
    return member.nonzero().squeeze(1)
