"""LSHClasses: hash tables of the class weights; a batch is scored against the buckets that its samples fall into."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.host_numbers import number
from annsoftmax_ref.rivals.rebuilt import RebuiltClasses, as_rows, spans

CHUNK = 1 << 20  # bucket members looked at, or hash bits made, at a time
MOST_BITS = 30  # a code is kept in 32 bits


class LSHClasses(RebuiltClasses):
    """Active classes from locality-sensitive hash tables, as SLIDE trains a wide output layer
    (Chen et al., MLSys 2020; github.com/keroro824/HashingDeepLearning, of which we had the Amazon-670K settings).

    From SLIDE: L = 50 tables of K hashes over the weight rows, looked up with the sample; hashes fixed for the run and
    tables made anew at a period. Ours: SimHash (signs of random projections; Charikar 2002), the ranking of a
    sample's classes by how many tables they share with it (ties to the lower id), one active set for the batch, the
    period, and K by the number of classes (SLIDE there: K = 6 of its own hashes, 0.5 % of the classes active).

    sample_rate, groups, grouping: see ``Selector``; one group is theirs.
    bits: K, of 1 to 30; None: so many that a bucket holds about 32 classes on average.
    tables: L. rebuild_steps: training steps between rebuilds of the tables.
    """

    def __init__(
        self,
        sample_rate: float = 0.1,
        bits: int | None = None,
        tables: int = 50,
        rebuild_steps: int = 50,
        groups: int | None = 1,
        grouping: str = "similar",
    ):
        super().__init__(sample_rate, rebuild_steps, groups, grouping)
        if bits is not None and check_positive_int("bits", bits) > MOST_BITS:
            raise ValueError(f"bits is {bits}; it should be at most {MOST_BITS}")
        self.bits = self._asked = bits
        self.tables = check_positive_int("tables", tables)

    def bind(self, num_classes: int, embedding_size: int, scale: float = 1.0) -> None:
        super().bind(num_classes, embedding_size, scale)
        self.bits = self._asked or min(MOST_BITS, max(1, round(math.log2(num_classes / 32))))
        self.register_buffer("planes", torch.zeros(self.tables, self.bits, embedding_size))
        # Of each table: the classes by (code, id), and their codes.
        self.register_buffer("members", torch.zeros(self.tables, num_classes, dtype=torch.int32))
        self.register_buffer("codes", torch.zeros(self.tables, num_classes, dtype=torch.int32))

    def hash(self, unit_rows: Tensor) -> Tensor:
        """unit_rows [n, d] -> codes [L, n] int32; bit j of a table's code is 1 where plane j . row > 0."""
        planes = self.planes.to(unit_rows.dtype).flatten(0, 1)
        powers = 1 << torch.arange(self.bits, dtype=torch.int32, device=unit_rows.device)
        codes = [
            ((part @ planes.T > 0).unflatten(1, (self.tables, self.bits)) * powers).sum(2, dtype=torch.int32)
            for part in unit_rows.split(max(1, CHUNK // len(planes)))
        ]
        return torch.cat(codes).T.contiguous()

    def rebuild(self, directions: Tensor, generator: torch.Generator) -> None:
        if not number(self.built):
            self.planes.copy_(torch.randn(self.planes.shape, generator=generator, dtype=torch.float64))
        codes, members = self.hash(directions).sort(dim=1, stable=True)
        self.codes.copy_(codes)
        self.members.copy_(members)

    def candidates(self, x: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        codes = self.hash(x)
        first = torch.searchsorted(self.codes, codes)  # [L, B]
        lengths = torch.searchsorted(self.codes, codes, right=True) - first
        step = max(1, CHUNK // max(1, int(lengths.sum(dim=0).max())))
        parts = [
            self._by_shared_tables(first[:, part], lengths[:, part], part)
            for part in torch.arange(len(x), device=x.device).split(step)
        ]
        samples, classes = (torch.cat(part) for part in zip(*parts, strict=True))
        return as_rows(samples, classes, len(x), self.active_classes)

    def _by_shared_tables(self, first: Tensor, lengths: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Buckets first, lengths [L, b] of samples [b] -> (sample, class) pairs [m], by (sample, -shared, class)."""
        n = self.num_classes
        row_starts = n * torch.arange(self.tables, device=first.device).unsqueeze(1)
        owners, places = spans((first + row_starts).flatten(), lengths.flatten())
        pairs = samples[owners % len(samples)] * n + self.members.flatten()[places]
        pairs, shared = pairs.unique(return_counts=True)  # ascending: by sample, then class
        order = (pairs // n * (self.tables + 1) - shared).argsort(stable=True)
        return pairs[order] // n, pairs[order] % n

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.bits}, tables={self.tables}, rebuild_steps={self.rebuild_steps}"
