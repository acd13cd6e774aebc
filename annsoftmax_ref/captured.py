"""A head's whole step as one CUDA graph: forward and backward pass, rows and codes moved, without Python in between.

A step is some hundred small launches, and a host that launches them one by one is slower than the GPU that runs them
as long as classes are few. Of a graph there is one launch. What the host decides in a step (``host_numbers``) it
decides again before each replay: counters, learning rates, what is drawn. So a head ends where it would have ended
without the graph, and goes on from there without it whenever that is called for.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.active_sets import ActiveSets
from annsoftmax_ref.checks import has_overflowed
from annsoftmax_ref.host_numbers import Retold
from annsoftmax_ref.loss import has_kernel
from annsoftmax_ref.row_optimizer import RowOptimizer, UnitGradient
from annsoftmax_ref.row_parameter import row_state, unwatching
from annsoftmax_ref.rows import autocasts, unit_rows

ORDINARY = 2  # steps before one is recorded: an index, the optimizer's buffers and workspaces are made in them


class CapturedStep:
    """``loss = step(embeddings, labels)``: the head's loss, its rows already moved by it.

        step = head.captured_step(optimizer)
        for images, labels in batches:
            step(backbone(images), labels).backward()  # the backbone's gradients: the head's are used up
            backbone_optimizer.step()

    The rows move by the gradient of the loss as it is: a loss that is scaled or summed with others, clipping, and
    gradients gathered over batches are not for it. Learning rates may change from step to step. The host waits once a
    step, for the look at the batch; a batch that cannot be taken is refused as the head refuses it, with nothing moved.

    A graph is made for one batch size and autocast setting, and again when those change, when somebody else writes to
    the weight, or memory moves. Such steps, and all on the CPU, are taken without it. replayed: how many were not.
    """

    def __init__(self, head, optimizer: RowOptimizer):
        _check(head, optimizer)
        self.head, self.optimizer = head, optimizer
        self.replayed = 0
        self._setting: Setting | None = None
        self._graph: Recorded | None = None
        self._taken = 0  # ordinary steps of this setting

    @unwatching
    def __call__(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings [B, d], labels [B] as the head takes them -> mean loss, a scalar."""
        if not self.head.training:
            raise ValueError("head is in eval mode; it should be in training mode for a step")
        setting = Setting.of(embeddings, self.head, self.optimizer)
        if setting != self._setting or not self.head.selector.is_settled(self.head.weight):
            self._setting, self._graph, self._taken = setting, None, 0
        if not self._can_be_captured(embeddings) or self._taken < ORDINARY:
            self._taken += 1
            return self._ordinary(embeddings, labels)
        labels = self.head.checked(embeddings, labels)
        if self._graph is None:
            self._graph = Recorded(self.head, self.optimizer, embeddings, labels)
        loss, slope = self._graph(embeddings, labels)
        self.replayed += self._graph.is_captured
        return _Given.apply(embeddings, loss, slope)

    def _can_be_captured(self, embeddings: Tensor) -> bool:
        """Whether there are kernels for all of it, and nothing that the device is asked: whether embeddings in float16
        have overflowed, or small active sets hold all labels."""
        if not backend.shapes_are_fixed(embeddings) or embeddings.dtype == torch.float16 or len(embeddings) == 0:
            return False
        has_kernels = backend.runs(self.optimizer.ops.step, rows=self.head.weight)
        return has_kernels and self.head.selector.has_room_for_all(len(embeddings))

    def _ordinary(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        if has_overflowed(embeddings, self.head.embedding_size):  # as a GradScaler expects; nothing moves
            return _Given.apply(embeddings, embeddings.new_tensor(torch.nan), torch.full_like(embeddings, torch.nan))
        labels = self.head.checked(embeddings, labels)
        loss, slope = whole_step(self.head, self.optimizer, embeddings.detach().requires_grad_(), labels)
        self._setting = Setting.of(embeddings, self.head, self.optimizer)  # buffers may have been made
        return _Given.apply(embeddings, loss, slope)


def whole_step(head, optimizer: RowOptimizer, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The step itself, of embeddings [B, d] that want a gradient -> loss, and that gradient [B, d].

    Of one active set, rows are read as they will be up to date, and the gradient of the unit rows goes to the optimizer
    as it is: rows are caught up, and it goes through the backward pass of the scaling, while they are moved. A number
    with momentum takes 32 bytes of traffic by count in place of 56 in float32, 28 for 52 under autocast, 16 for 28 in
    bfloat16.
    """
    with torch.enable_grad():
        x = unit_rows(embeddings)
        active = head.active_sets(x.detach(), labels)
        loss, of_units = _backward(head, optimizer, x, active)
    optimizer.step(of_units=of_units)
    optimizer.zero_grad()
    head.selector.sync(head.weight)  # so that no codes are left over for the next step, which are elsewhere then
    slope, embeddings.grad = embeddings.grad, None
    return loss.detach(), slope


def _backward(head, optimizer, x: Tensor, active: ActiveSets) -> tuple[Tensor, UnitGradient | None]:
    """The loss of unit embeddings x [B, d], whose gradient is made, and that of the active rows' directions; None: the
    weight has its own."""
    ids = active.classes[0]
    read = optimizer.unit_rows(head.weight, ids, autocasts(x)) if len(active) == 1 else None
    if read is None:
        loss = head.loss_over(x, active)
        loss.backward()
        return loss, None
    directions, norms = read[0].requires_grad_(), read[1]
    loss = head.loss_over(x, active, directions=directions.unsqueeze(0))
    loss.backward()
    return loss, UnitGradient(head.weight, ids, directions.grad, norms)


class Setting(NamedTuple):
    """What a graph is made for: the batch, the autocast setting, and where all tensors lie that outlive a step."""

    shape: torch.Size
    dtype: torch.dtype
    products: torch.dtype | None
    places: tuple[int, ...]
    changes: int  # of which classes there are: memory that was given back may be taken again

    @staticmethod
    def of(embeddings: Tensor, head, optimizer: RowOptimizer) -> Setting:
        kind = embeddings.device.type
        products = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        kept = [*head.parameters(), *head.buffers(), *head.selector.kept_tensors(), *optimizer.kept_tensors()]
        places = tuple(tensor.data_ptr() for tensor in kept)
        return Setting(embeddings.shape, embeddings.dtype, products, places, row_state(head.weight).changes)


class Recorded:
    """A step on a batch of fixed shape: taken once as it is, then captured, then replayed.

    A call -> loss, a scalar, and its gradient for the embeddings [B, d].
    """

    def __init__(self, head, optimizer: RowOptimizer, embeddings: Tensor, labels: Tensor):
        self.head, self.optimizer = head, optimizer
        self.x, self.labels = embeddings.detach().clone().requires_grad_(), labels.clone()
        self._retold, self._graph, self._taken = Retold(), None, False

    @property
    def is_captured(self) -> bool:
        return self._graph is not None

    def __call__(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            self.x.copy_(embeddings)
            self.labels.copy_(labels)
        if not self._taken:
            self._taken = True
            with aside(embeddings.device), self._retold.listening(captured=False):
                return self._take()
        if self._graph is None:
            self._graph = new_graph()
            with capturing(self._graph), self._retold.listening(captured=True):
                self._results = self._take()
        self._retold.tell()
        self._graph.replay()
        loss, slope = self._results
        return loss.clone(), slope.clone()  # the next replay writes there

    def _take(self) -> tuple[Tensor, Tensor]:
        device = self.x.device.type
        with torch.autocast(device, enabled=torch.is_autocast_enabled(device), cache_enabled=False):
            return whole_step(self.head, self.optimizer, self.x, self.labels)


class _Given(torch.autograd.Function):
    """A loss whose gradient for the embeddings is known already."""

    @staticmethod
    def forward(ctx, embeddings: Tensor, loss: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return loss.clone()

    @staticmethod
    def backward(ctx, grad: Tensor):
        (slope,) = ctx.saved_tensors
        return slope * grad.to(slope.dtype), None, None


def new_graph() -> torch.cuda.CUDAGraph:
    return torch.cuda.CUDAGraph()


def capturing(graph) -> contextlib.AbstractContextManager:
    return torch.cuda.graph(graph)


@contextlib.contextmanager
def aside(device: torch.device):
    """On a stream of its own, as torch wants it before a capture."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)


def _check(head, optimizer) -> None:
    """ValueError for a head whose step cannot be recorded, and an optimizer that is not the head's alone."""
    if not isinstance(optimizer, RowOptimizer):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}; it should be a RowSGD or RowAdamW")
    theirs = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if theirs != {id(p) for p in head.parameters()}:
        raise ValueError(
            f"optimizer has {len(theirs)} parameters; it should have the head's, all of them and no others, since it "
            "moves them before the backbone's gradients are there"
        )
    for name, stands_in_the_way in (
        ("selector", not head.selector.can_be_recorded),
        ("objective", not has_kernel(head.objective)),
        ("class_weights", head.class_weights is not None),
        ("ignore_index", head.ignore_index is not None),
        ("bias", head.bias is not None),
        ("sparse", not head.sparse),
    ):
        if stands_in_the_way:
            raise ValueError(
                f"{name} is {getattr(head, name)}, with which shapes or choices depend on the batch; captured_step "
                "takes RandomClasses, and NearestClasses without tail, priority and mass_target, objectives that have "
                "a kernel, and sparse gradients"
            )
