"""What a head is asked beside its loss: logits, the nearest classes, their directions, and how good its choice is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from annsoftmax_ref import rows
from annsoftmax_ref.batch import without_ignored
from annsoftmax_ref.checks import check_classes, check_embeddings, check_k
from annsoftmax_ref.class_index import ClassIndex, check_candidates, found_of, nearest_by_index
from annsoftmax_ref.diagnostics import diagnose
from annsoftmax_ref.every_row import all_cosines, nearest_of_all
from annsoftmax_ref.row_parameter import row_state, unwatching
from annsoftmax_ref.rows import cosines, unit_rows
from annsoftmax_ref.splitting import sharded_topk


class Prediction(nn.Module):
    """The part of ``SoftmaxHead`` that changes nothing of what is trained."""

    class_index: ClassIndex | None = None  # that of ``build_index``

    @unwatching
    def logits(self, embeddings: Tensor, classes: Tensor | None = None) -> Tensor:
        """embeddings [B, d] -> scale * cosine (+ bias) [B, N], or [B, n] for classes [n] int64; no margin."""
        self._check_whole("logits")
        check_embeddings(embeddings, self.embedding_size)
        if classes is None:
            logits = self.objective.scale * all_cosines(unit_rows(embeddings), self.weight)
            return logits if self.bias is None else logits + self._all_biases()
        check_classes(classes, self.num_classes)
        self._bring_up_to_date(classes)
        logits = self.objective.scale * cosines(unit_rows(embeddings), unit_rows(self.weight[classes]))
        return logits if self.bias is None else logits + self.bias[classes]

    @torch.no_grad()
    @unwatching
    def topk(
        self,
        embeddings: Tensor,
        k: int = 1,
        approximate: bool = False,
        nprobe: int | None = None,
        candidates: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The k classes of largest cosine, over all classes, best first: cosines [B, k], classes [B, k].

        With a bias, of largest logit: cosine + bias / scale stands in the cosine's place.

        approximate: search an index, in which ``nprobe`` lists are looked at (default: the selector's, which is 2
        sqrt(lists) where nobody chose) and so many ``candidates`` ordered by their exact cosines (default: 100
        sqrt(k)). The index is that of ``build_index``, else the one that ``NearestClasses`` trained with; either is
        brought up to date first, and rows that lag are where they are read; training goes on as it would have. What is
        found has its exact cosine; some of the k may be missed (``recall_of_topk``). Candidates are found by cosine, so
        that with a bias a class is missed whose bias alone would bring it among the k. ValueError for a head without an
        index of its rows as they are, and where classes are split over processes, which is for exact search alone.
        """
        if self.shards is not None and not approximate:
            return sharded_topk(self, embeddings, k)
        check_embeddings(embeddings, self.embedding_size)
        check_k(k, self.num_classes)
        x = unit_rows(embeddings)
        if approximate:
            self._check_whole("topk(approximate=True)")
            return nearest_by_index(self, x, k, nprobe, check_candidates(candidates, k))
        if nprobe is not None or candidates is not None:
            raise ValueError(f"nprobe is {nprobe}, candidates {candidates}; they go with approximate=True alone")
        return nearest_of_all(x, self.weight, k, self._shifts())

    @torch.inference_mode(False)
    @torch.no_grad()
    @unwatching
    def build_index(self, nlist: int | None = None, seed: int = 0) -> None:
        """Make the index that ``topk(approximate=True)`` searches, for a head of any selector; once more: anew.

        It follows when rows move. It is not saved with the head, and a copy of the head has none. About 120 bytes
        a class beside the weight (of 128 numbers), and some seconds for a million of them. nlist: lists, as
        ``NearestClasses`` has them. seed: of the rows that k-means begins with.
        """
        self._check_whole("build_index")
        self.class_index = ClassIndex(self.weight, nlist, seed)

    def recall_of_topk(
        self, embeddings: Tensor, k: int = 10, nprobe: int | None = None, candidates: int | None = None
    ) -> float:
        """The part (0 to 1) of the k classes by exact search that ``topk(approximate=True)`` with these options finds,
        mean over embeddings [B, d]. Exact search is what it costs: some hundreds of samples tell a per cent."""
        return found_of(self, embeddings, self.topk(embeddings, k)[1], nprobe, candidates)

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

    def _bring_up_to_date(self, classes: Tensor) -> None:
        """The rows and biases of these classes, -1 being none, for what reads no others."""
        lagging = [part for part in (self.weight, self.bias) if part is not None and row_state(part).owner is not None]
        ids = classes[classes >= 0].unique() if lagging else None
        for part in lagging:
            rows.catch_up(part, ids)

    def _shifts(self) -> Tensor | None:
        return None if self.bias is None else self._all_biases() / self.objective.scale

    def _check_whole(self, what: str) -> None:
        if self.shards is not None:
            raise ValueError(f"{what} needs all classes in one process; this head's are split over {self.shards.ranks}")
