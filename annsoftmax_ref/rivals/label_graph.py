"""LabelGraphClasses: KNN Softmax, the neighbours of the batch's own classes in a graph over all classes."""

from __future__ import annotations

import torch
from torch import Tensor

from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.rivals.rebuilt import RebuiltClasses

CHUNK = 1 << 24  # cosines made at a time


class LabelGraphClasses(RebuiltClasses):
    """KNN Softmax (Song et al., "Large-Scale Training System for 100-Million Classification at Alibaba", KDD 2020,
    arXiv 2102.06025). We could read only its abstract and a later blog's account of the selection.

    From there, as far as known: a k-nearest-neighbour graph over the normalised class weights, by exact brute force,
    rebuilt about once an epoch; a batch's active set is the union of its labels' rows of the graph, cut by rank if
    too large and filled at random if too small. The sample itself is never asked, only its label. Ours: k (the paper's
    was not found), a class not listed among its own neighbours, one machine and plain arrays in place of a
    compressed graph in shards, and the period in steps: 100 steps of 256 are about an epoch of the glyphs.

    sample_rate, groups, grouping: see ``Selector``; one group is theirs.
    neighbours: k, or N - 1 where that is less; 4 bytes each a class.
    rebuild_steps: training steps between rebuilds; set it to the steps of an epoch. A rebuild costs N^2 d.
    """

    def __init__(
        self,
        sample_rate: float = 0.1,
        neighbours: int = 100,
        rebuild_steps: int = 100,
        groups: int | None = 1,
        grouping: str = "similar",
    ):
        super().__init__(sample_rate, rebuild_steps, groups, grouping)
        self.neighbours = self._asked = check_positive_int("neighbours", neighbours)

    def bind(self, num_classes: int, embedding_size: int, scale: float = 1.0) -> None:
        super().bind(num_classes, embedding_size, scale)
        self.neighbours = min(self._asked, num_classes - 1)
        self.register_buffer("graph", torch.zeros(num_classes, self.neighbours, dtype=torch.int32))

    def split(self, shards) -> None:
        """As the base; on one process only."""
        if shards.ranks > 1:
            raise ValueError(
                "selector is LabelGraphClasses with a process_group of several processes; its graph joins classes of "
                "all of them: take NearestClasses"
            )
        super().split(shards)

    def rebuild(self, directions: Tensor, generator: torch.Generator) -> None:
        self.fill(torch.arange(self.num_classes, device=directions.device), directions)

    def fill(self, classes: Tensor, directions: Tensor) -> None:
        """The rows of the graph of classes [n]: neighbours by (-cosine, id); of equals at a row's end any may be left
        out. directions [N, d]: all rows, of length 1."""
        for ids in classes.split(max(1, CHUNK // self.num_classes)):
            cosines = directions[ids] @ directions.T
            cosines[torch.arange(len(ids), device=ids.device), ids] = -torch.inf
            found = cosines.topk(self.neighbours, dim=1).indices.sort(dim=1).values
            order = cosines.gather(1, found).argsort(dim=1, descending=True, stable=True)
            self.graph[ids] = found.gather(1, order).to(self.graph.dtype)

    def candidates(self, x: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        return self.graph[labels].long()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, neighbours={self.neighbours}, rebuild_steps={self.rebuild_steps}"
