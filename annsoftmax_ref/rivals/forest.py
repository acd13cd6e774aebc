"""ForestClasses: Selective Softmax, the nearest few classes of each sample from a forest of random projections."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.rivals.rebuilt import RebuiltClasses, as_rows, spans
from annsoftmax_ref.rows import unit_rows

CHUNK = 1 << 16  # classes compared with their sample at a time


class ForestClasses(RebuiltClasses):
    """Selective Softmax, also HF-Softmax (Zhang et al., "Accelerated Training for Massive Classification via Dynamic
    Class Selection", AAAI 2018, arXiv 1801.01687). We read its abstract and its released code (yl-1993/hfsoftmax).

    From the code: 50 trees over the class weights, rebuilt from scratch every 100 steps; a sample brings in its
    n = int(A / B) + 1 nearest classes, however many there would be room for; one active set for the batch, filled at
    random, no correction of logits. Ours: the trees (the code calls Annoy's), their leaf size, that the batch's
    classes count among the A, and the cut: too large a union loses the classes of worst rank, where the code drops
    some at random. Not taken: the paper's adaptive numbers of classes and of updates, which the code leaves out.

    A tree halves the classes at the median of a random projection until a leaf holds ``leaf_size`` at most. All nodes
    of one level share the direction. A query meets one node a level, so it cannot tell this from directions drawn
    for each node, and a level costs one product. A query looks at one leaf of each tree.

    sample_rate, groups, grouping: see ``Selector``; one group is theirs.
    trees, leaf_size (at least 2), rebuild_steps: as above.
    """

    def __init__(
        self,
        sample_rate: float = 0.1,
        trees: int = 50,
        leaf_size: int = 16,
        rebuild_steps: int = 100,
        groups: int | None = 1,
        grouping: str = "similar",
    ):
        super().__init__(sample_rate, rebuild_steps, groups, grouping)
        self.trees = check_positive_int("trees", trees)
        if check_positive_int("leaf_size", leaf_size) < 2:
            raise ValueError(f"leaf_size is {leaf_size}; it should be at least 2")
        self.leaf_size = leaf_size

    def bind(self, num_classes: int, embedding_size: int, scale: float = 1.0) -> None:
        super().bind(num_classes, embedding_size, scale)
        self.depth = max(0, (-(-num_classes // self.leaf_size) - 1).bit_length())
        self.register_buffer("planes", torch.zeros(self.trees, self.depth, embedding_size))
        # The nodes of level l start at 2^l - 1; node i of a level has the children 2 i and 2 i + 1 of the next.
        self.register_buffer("thresholds", torch.zeros(self.trees, 2**self.depth - 1))
        self.register_buffer("members", torch.zeros(self.trees, num_classes, dtype=torch.int32))  # leaf by leaf
        self._sizes = _node_sizes(num_classes, self.depth)

    def rebuild(self, directions: Tensor, generator: torch.Generator) -> None:
        drawn = torch.randn(self.planes.shape, generator=generator, dtype=torch.float64)
        self.planes.copy_(F.normalize(drawn, dim=2))
        for tree in range(self.trees):
            self._grow(tree, directions)

    def _grow(self, tree: int, directions: Tensor) -> None:
        projections = self.planes[tree].to(directions.dtype) @ directions.T  # [depth, N]
        node = torch.zeros(self.num_classes, dtype=torch.int64, device=directions.device)  # of each class
        for level, projection in enumerate(projections):
            order = projection.argsort(stable=True)
            order = order[node[order].argsort(stable=True)]  # by (node, projection, id)
            sizes, halves = (s.to(node.device) for s in self._sizes[level : level + 2])
            cut = sizes.cumsum(0) - sizes + halves[::2]  # where each node's upper half starts
            ranked = projection[order]
            self.thresholds[tree, 2**level - 1 : 2 ** (level + 1) - 1] = (ranked[cut - 1] + ranked[cut]) / 2
            node[order] = torch.repeat_interleave(torch.arange(len(halves), device=node.device), halves)
        self.members[tree] = node.argsort(stable=True)

    def leaves(self, x: Tensor) -> Tensor:
        """x [B, d] unit rows -> the leaf of each tree that each falls into [B, T]."""
        projections = torch.einsum("bd,tld->lbt", x, self.planes.to(x.dtype))
        node = torch.zeros(len(x), self.trees, dtype=torch.int64, device=x.device)
        trees = torch.arange(self.trees, device=x.device)
        for level, projection in enumerate(projections):
            node = 2 * node + (projection > self.thresholds[trees, 2**level - 1 + node])
        return node

    def quota(self, batch: int) -> int:
        """n, the classes that each sample may bring into its group's active set."""
        return self.active_classes // -(-batch // self.groups_for(batch)) + 1

    def candidates(self, x: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        sizes = self._sizes[-1].to(x.device)
        leaves = self.leaves(x)
        first = (sizes.cumsum(0) - sizes)[leaves] + self.num_classes * torch.arange(self.trees, device=x.device)
        step = max(1, CHUNK // (self.trees * int(sizes.max())))
        parts = [
            self._by_cosine(x, weight, first[part], sizes[leaves[part]], part)
            for part in torch.arange(len(x), device=x.device).split(step)
        ]
        samples, classes = (torch.cat(part) for part in zip(*parts, strict=True))
        return as_rows(samples, classes, len(x), self.quota(len(x)))

    def _by_cosine(
        self, x: Tensor, weight: Tensor, first: Tensor, lengths: Tensor, samples: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Leaves first, lengths [b, T] of samples [b] -> (sample, class) pairs [m], by (sample, -cosine, class).

        Cosines are with the rows as they are now, where Annoy keeps copies from when it was built.
        """
        owners, places = spans(first.flatten(), lengths.flatten())
        pairs = samples[owners // self.trees] * self.num_classes + self.members.flatten()[places]
        pairs = pairs.unique()  # ascending: by sample, then class
        owners, classes = pairs // self.num_classes, pairs % self.num_classes
        cosines = (x[owners] * unit_rows(weight[classes])).sum(dim=1)
        order = cosines.argsort(descending=True, stable=True)
        order = order[owners[order].argsort(stable=True)]
        return owners[order], classes[order]

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, trees={self.trees}, leaf_size={self.leaf_size}, "
            f"rebuild_steps={self.rebuild_steps}"
        )


def _node_sizes(count: int, depth: int) -> list[Tensor]:
    """Classes in each node, for levels 0 to depth: a node of n gives its lower child ceil(n / 2)."""
    sizes = [torch.tensor([count])]
    for _ in range(depth):
        sizes.append(torch.stack([(sizes[-1] + 1) // 2, sizes[-1] // 2], dim=1).flatten())
    return sizes
