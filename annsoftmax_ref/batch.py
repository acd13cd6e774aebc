"""A batch before it is scored: samples to ignore, their weights, and whether it has been scored before."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from annsoftmax_ref.active_sets import ActiveSets
from annsoftmax_ref.rows import gather_rows

REMEMBERED = 4  # forward passes that ``torch.utils.checkpoint`` can ask for once more


def without_ignored(embeddings: Tensor, labels: Tensor, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """embeddings [B, d], labels [B] -> those whose label is not ignore_index; as given where no label is.

    What is not a batch is left as it is, for the checks that follow to say so.
    """
    given = (embeddings, labels)
    if ignore_index is None or not all(isinstance(t, Tensor) and t.dim() for t in given):
        return given
    kept = labels != ignore_index
    if kept.shape != embeddings.shape[:1] or kept.all():
        return given
    return embeddings[kept], labels[kept]


def mean_weights(class_weights: Tensor, labels: Tensor) -> Tensor:
    """class_weights [N], labels [B] -> w_y / sum of the batch's w_y [B], as in torch's weighted mean.

    All 0 where every sample's weight is 0; torch divides 0 by 0 there.
    """
    weights = class_weights[labels]
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    return weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def no_loss(embeddings: Tensor, parts: Sequence[Tensor | None], sparse: bool, factor: float) -> Tensor:
    """factor times 0, with gradients of it for embeddings [B, d] and parts, [N, d] or [N], sparse ones if ``sparse``.

    Of a batch in which there is nothing to score; factor: 0, or NaN.
    """
    total = factor * embeddings[:1].sum(dtype=torch.promote_types(embeddings.dtype, torch.float32))
    for part in parts:
        if part is not None:
            first = torch.zeros(min(1, len(part)), dtype=torch.int64, device=part.device)
            total = total + factor * (gather_rows(part, first) if sparse else part[:1]).sum()
    return total


class Scored(NamedTuple):
    """Unit embeddings x [B, d] and labels [B], the active sets they were scored against (None: all classes), and the
    generator of what the objective draws for them."""

    x: Tensor
    labels: Tensor
    active: ActiveSets | None
    generator: torch.Generator


class ScoredBatches:
    """The last batches of a head, for forward passes that are made twice.

    ``torch.utils.checkpoint`` makes the second one in the backward pass. It restores the state of torch's own
    generators, not of the head's, so that other classes would be drawn for the gradient than for the loss.
    """

    def __init__(self):
        self._last: deque[tuple[Scored, Tensor]] = deque(maxlen=REMEMBERED)

    def __getstate__(self) -> dict:
        return {"_last": deque(maxlen=REMEMBERED)}  # a copied or saved head is asked for none of them

    def remember(self, x: Tensor, labels: Tensor, active, generator: torch.Generator) -> Scored:
        scored = Scored(x.detach(), labels, active, generator)
        self._last.append((scored, generator.get_state()))
        return scored

    def again(self, x: Tensor, labels: Tensor) -> Scored | None:
        """The batch as it was scored before, with a generator that draws the same again; None for a new batch."""
        if torch._C._current_graph_task_id() == -1:  # no backward pass is running
            return None
        same = [last for last in self._last if torch.equal(last[0].labels, labels)]
        if not same:
            return None
        scored, state = min(same, key=lambda last: float((last[0].x - x.detach()).abs().max()))
        generator = torch.Generator()
        generator.set_state(state)
        return scored._replace(generator=generator)
