"""The classes of a head, split over the processes of a group, and what the processes send each other in a step.

Process r has classes r c .. (r + 1) c - 1, c = ceil(N / P), DTensor's rule: the last ones may have fewer, or none. Each
has a part of the batch, sees all of it, and scores it against its own classes. A softmax needs of the others' classes
one number a sample, so that what is sent does not grow with N:

    what                 how                         received by each process
    header [7]           all-gather, on the host     (P - 1) 56 bytes
    features [B, d]      all-gather                  (P - 1) / P B d numbers of the embeddings' kind
    labels [B]           all-gather                  (P - 1) / P B 8 bytes
    order of candidates  all-reduce, MAX and SUMs    2 (P - 1) / P (B (2 + 64) + W + 1) 4 bytes, where sets must be cut
    softmax              all-reduce, MAX and SUMs    2 (P - 1) / P B (1 + 2) 4 bytes
    gradient [B, d]      reduce-scatter              (P - 1) / P B d 4 bytes

(by a ring; ``Shards.received`` counts them; W: columns of ``global_order``'s tables). The paper splits its last layer
so over 256 GPUs; so does PartialFC.

Collectives have a fixed order on all processes, and nothing that only one process knows decides whether there is one.
"""

from __future__ import annotations

from collections import Counter

import torch
import torch.distributed as dist
from torch import Tensor

from annsoftmax_ref.checks import check_positive_int


class Shards:
    """Which classes are whose, and collectives over the group.

    rank, ranks: of this process, and P. first, last: the classes here are first .. last - 1. received: bytes received
    so far, by the name of what was sent.
    """

    def __init__(self, num_classes: int, group: dist.ProcessGroup):
        self.num_classes = check_positive_int("num_classes", num_classes)
        self.group, self.rank, self.ranks = group, dist.get_rank(group), dist.get_world_size(group)
        self.first, self.last = range_of(num_classes, self.rank, self.ranks)
        self.received: Counter[str] = Counter()
        # The host's own numbers are not to wait for a GPU: where the group is of GPUs alone, they have another.
        self.host_group = dist.new_group(_members(group), backend="gloo") if _is_of_gpus(group) else group

    @property
    def size(self) -> int:
        """Of this process, its number of classes."""
        return self.last - self.first

    def here(self, labels: Tensor) -> Tensor:
        """labels [B] -> their rows here, -1 where the class is another process's."""
        return torch.where((labels >= self.first) & (labels < self.last), labels - self.first, -1)

    def share(self, total: int) -> int:
        """This process's part of a number that is split as the classes are: the parts' sum is ``total``."""
        return self.share_before(total, self.last) - self.share_before(total)

    def share_before(self, total: int, place: int | None = None) -> int:
        """The part of ``total`` that the classes before ``place`` have (default: those of earlier processes)."""
        return round_half_up(total * (self.first if place is None else place), self.num_classes)

    def gather(self, values: Tensor, sizes: list[int], name: str) -> Tensor:
        """values [b, ...], b = sizes[rank] -> everybody's, in the order of ranks [B, ...]. No gradient."""
        padded = values.new_zeros(max(sizes), *values.shape[1:])
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=self.group)
        self._count(name, "all_gather", padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def gather_batch(self, embeddings: Tensor, sizes: list[int], factor: float) -> Tensor:
        """embeddings [b, d] -> everybody's [B, d], in float32 at least.

        The gradient is the sum of what all processes make of their copies, times ``factor``.
        """
        return _GatherBatch.apply(embeddings, self, sizes, factor)

    def sum(self, values: Tensor, name: str = "softmax") -> Tensor:
        """The sum over processes. Every process goes on with the same value, and has its own part's gradient."""
        return _Sum.apply(values, self, name)

    def log_sum(self, values: Tensor, name: str = "softmax") -> Tensor:
        """log sum over processes of e^values; -inf where all of them are. The gradient is that of the part here."""
        return _LogSum.apply(values, self, name)

    def maximum(self, values: Tensor, name: str) -> Tensor:
        """The largest of all processes. No gradient. gloo may lose a NaN here: sum what must not be lost."""
        return self._reduced(values.detach().clone(), dist.ReduceOp.MAX, name)

    def total(self, values: Tensor, name: str) -> Tensor:
        """The sum over processes, without a gradient."""
        return self._reduced(values.detach().clone(), dist.ReduceOp.SUM, name)

    def gather_on_host(self, values: Tensor, name: str) -> Tensor:
        """values [n], of the host -> [P, n]."""
        parts = [torch.empty_like(values) for _ in range(self.ranks)]
        dist.all_gather(parts, values, group=self.host_group)
        self._count(name, "all_gather", values)
        return torch.stack(parts)

    def reduce_scatter(self, values: Tensor, sizes: list[int], name: str) -> Tensor:
        """values [B, ...] of this process -> the sum over processes of this process's part [b, ...]."""
        padded = values.new_zeros(self.ranks, max(sizes), *values.shape[1:])
        for place, part, size in zip(padded, values.split(sizes), sizes, strict=True):
            place[:size] = part
        mine = torch.empty_like(padded[0])
        dist.reduce_scatter(mine, list(padded), group=self.group)
        self._count(name, "reduce_scatter", mine)
        return mine[: sizes[self.rank]]

    def _reduced(self, values: Tensor, op, name: str) -> Tensor:
        dist.all_reduce(values, op, group=self.group)
        self._count(name, "all_reduce", values)
        return values

    def _count(self, name: str, kind: str, values: Tensor) -> None:
        self.received[name] += ring_bytes(kind, values.numel() * values.element_size(), self.ranks)

    def __getstate__(self) -> dict:
        raise TypeError("a head split over processes cannot be copied or pickled; save it with training.sharded")


def range_of(num_classes: int, rank: int, ranks: int) -> tuple[int, int]:
    """The first class of process ``rank`` of ``ranks``, and the first that is no longer its own."""
    each = -(-num_classes // ranks)
    return min(rank * each, num_classes), min((rank + 1) * each, num_classes)


def ring_bytes(kind: str, count: int, ranks: int) -> int:
    """Bytes that each process receives in a collective by a ring.

    count: bytes of a process's part for "all_gather" and "reduce_scatter", of the whole tensor for "all_reduce".
    """
    return 2 * (ranks - 1) * count // ranks if kind == "all_reduce" else (ranks - 1) * count


def round_half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


class _GatherBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, embeddings: Tensor, shards: Shards, sizes: list[int], factor: float) -> Tensor:
        ctx.shards, ctx.sizes, ctx.factor, ctx.kind = shards, sizes, factor, embeddings.dtype
        whole = shards.gather(embeddings, sizes, "features")
        return whole.to(torch.promote_types(whole.dtype, torch.float32))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        # Summed before it is rounded to the embeddings' kind.
        mine = ctx.shards.reduce_scatter(grad, ctx.sizes, "gradient")
        return (mine * ctx.factor).to(ctx.kind), None, None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, shards: Shards, name: str) -> Tensor:
        return shards.total(values, name)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, None, None


class _LogSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, shards: Shards, name: str) -> Tensor:
        largest = shards.maximum(values, name)
        base = torch.where(largest.isfinite(), largest, 0)
        result = shards.total((values - base).exp(), name).log() + base
        ctx.save_for_backward(values, result)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        values, result = ctx.saved_tensors
        return torch.where(values == -torch.inf, 0, grad * (values - result).exp()), None, None


def _is_of_gpus(group: dist.ProcessGroup) -> bool:
    return dist.get_backend(group) == "nccl"


def _members(group: dist.ProcessGroup) -> list[int]:
    return dist.get_process_group_ranks(group)
