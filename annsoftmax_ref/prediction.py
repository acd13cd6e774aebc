"""What a head is asked beside its loss: logits, the nearest classes, their directions, and how good its choice is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from annsoftmax_ref import rows
from annsoftmax_ref.batch import without_ignored
from annsoftmax_ref.checks import check_classes, check_embeddings, check_k
from annsoftmax_ref.diagnostics import diagnose
from annsoftmax_ref.every_row import all_cosines, nearest_of_all
from annsoftmax_ref.row_parameter import unwatching
from annsoftmax_ref.rows import cosines, unit_rows
from annsoftmax_ref.splitting import sharded_topk


class Prediction(nn.Module):
    """The part of ``SoftmaxHead`` that changes nothing."""

    @unwatching
    def logits(self, embeddings: Tensor, classes: Tensor | None = None) -> Tensor:
        """embeddings [B, d] -> scale * cosine (+ bias) [B, N], or [B, n] for classes [n] int64; no margin."""
        self._check_whole("logits")
        check_embeddings(embeddings, self.embedding_size)
        if classes is None:
            logits = self.objective.scale * all_cosines(unit_rows(embeddings), self.weight)
            return logits if self.bias is None else logits + self._all_biases()
        check_classes(classes, self.num_classes)
        rows.catch_up(self.weight, classes.unique())
        logits = self.objective.scale * cosines(unit_rows(embeddings), unit_rows(self.weight[classes]))
        return logits if self.bias is None else logits + self._all_biases()[classes]

    @torch.no_grad()
    @unwatching
    def topk(self, embeddings: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """The k classes of largest cosine, over all classes: cosines [B, k], classes [B, k].

        With a bias, of largest logit: cosine + bias / scale stands in the cosine's place.
        """
        if self.shards is not None:
            return sharded_topk(self, embeddings, k)
        check_embeddings(embeddings, self.embedding_size)
        check_k(k, self.num_classes)
        return nearest_of_all(unit_rows(embeddings), self.weight, k, self._shifts())

    @torch.no_grad()
    @unwatching
    def prototypes(self) -> Tensor:
        """Each class's direction [N, d], length 1, as a copy; where classes are split, of those here."""
        return self._all_rows().clone()

    @unwatching
    def diagnose(self, embeddings: Tensor, labels: Tensor, k: int = 50) -> dict[str, float | None]:
        """How good the active sets are just now; see ``annsoftmax_ref.diagnostics.diagnose``."""
        self._check_whole("diagnose")
        return diagnose(self, *without_ignored(embeddings, labels, self.ignore_index), k)

    def _shifts(self) -> Tensor | None:
        return None if self.bias is None else self._all_biases() / self.objective.scale

    def _check_whole(self, what: str) -> None:
        if self.shards is not None:
            raise ValueError(f"{what} needs all classes in one process; this head's are split over {self.shards.ranks}")
