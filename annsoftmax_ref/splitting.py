"""A head whose classes are split over processes: how it comes to be, where it must not be, and its nearest classes."""

from __future__ import annotations

import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.nn.parallel import DistributedDataParallel

from annsoftmax_ref.agreement import Agreement
from annsoftmax_ref.checks import check_embeddings, check_instance, check_k
from annsoftmax_ref.every_row import nearest_of_all
from annsoftmax_ref.rows import unit_rows
from annsoftmax_ref.shards import Shards

BLOCK = 4096  # rows that are drawn from one seed, whoever has them


def split_over(head, group: ProcessGroup, seed: int) -> None:
    """Give the head what it needs beside its weights: shards, an agreement, and two generators.

    ``generator`` draws what is each process's own, ``common`` what is to be the same on all.
    """
    check_instance("process_group", group, ProcessGroup)
    if not head.objective.splits:
        raise ValueError(
            f"objective is {head.objective} with a process_group; its loss does not follow from sums over classes "
            "(loss_of_sums): take another one, or write that method and set splits"
        )
    head.shards = Shards(head.num_classes, group)
    head.selector.split(head.shards)
    head.agreement = Agreement(head.shards)
    head.common = torch.Generator().manual_seed(seed)
    head.generator = torch.Generator().manual_seed(seed_of(seed, head.shards.ranks, head.shards.rank))


def directions_of_shard(shards: Shards, dim: int, seed: int, dtype: torch.dtype, device=None) -> Tensor:
    """[n, d] rows of length 1 of the classes here, uniformly on the sphere, the same for any number of processes."""
    directions = torch.empty(shards.size, dim, dtype=dtype, device=device)
    fine = dtype if dtype == torch.float64 else torch.float32
    for block in range(shards.first // BLOCK, -(-shards.last // BLOCK)):
        generator = torch.Generator().manual_seed(seed_of(seed, block))
        drawn = torch.randn(BLOCK, dim, generator=generator, dtype=fine)
        first, last = max(shards.first, block * BLOCK), min(shards.last, (block + 1) * BLOCK)
        mine = drawn[first - block * BLOCK : last - block * BLOCK]
        directions[first - shards.first : last - shards.first] = F.normalize(mine, dim=1).to(device)
    return directions


def seed_of(*numbers: int) -> int:
    """A seed from whole numbers that are at least 0."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


IN_DDP = (
    "head is inside DistributedDataParallel, which would give every process the classes of process 0; it should stay "
    "outside: wrap the backbone alone"
)


SPARSE_IN_DDP = (
    "head is inside DistributedDataParallel, which takes no row-sparse gradients; wrap the backbone alone and make the "
    "head with a process_group, or make it with sparse=False, and every process has all classes"
)


def refuse_making_ddp(sentence: str) -> None:
    """ValueError where DistributedDataParallel is being made, which asks every module for its parameters before it
    writes process 0's over those of all others."""
    frame = sys._getframe(1)
    for _ in range(5):  # up to DDP's __init__
        if frame is None:
            return
        if isinstance(frame.f_locals.get("self"), DistributedDataParallel):
            raise ValueError(sentence)
        frame = frame.f_back


def refuse_running_ddp(head) -> None:
    """ValueError in the forward pass of a DistributedDataParallel that has the head in it, however it came there."""
    outer = DistributedDataParallel._active_ddp_module
    if outer is not None and any(parameter is head.weight for parameter in outer.parameters()):
        raise ValueError(IN_DDP)


def refuse_replicas(head) -> None:
    """ValueError in the forward pass of DataParallel."""
    if getattr(head, "_is_replica", False):
        raise ValueError(
            "head is inside DataParallel, which copies it for every GPU at every step, and its optimizer knows of no "
            "copy; wrap the backbone alone, or start a process for each GPU and make the head with a process_group"
        )


def sharded_topk(head, embeddings: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """``SoftmaxHead.topk`` of embeddings [b, d] of this process, for all processes to call together; b may be 0."""
    shards, error = head.shards, None
    try:
        check_embeddings(embeddings, head.embedding_size, or_empty=True)
        check_k(k, head.num_classes)
    except (ValueError, TypeError) as found:
        error = found
    sizes = head.agreement(embeddings, error, head.training, False).sizes
    if sum(sizes) == 0:
        return embeddings.new_empty(0, k), torch.empty(0, k, dtype=torch.int64, device=embeddings.device)
    x = unit_rows(shards.gather(embeddings, sizes, "features"))
    best, classes = x.new_full((len(x), k), -torch.inf), torch.full((len(x), k), -1, device=x.device)
    if shards.size:
        found, places = nearest_of_all(x, head.weight, min(k, shards.size), head._shifts())
        best[:, : found.shape[1]], classes[:, : found.shape[1]] = found, places + shards.first
    everybody = [len(x)] * shards.ranks
    best, classes = (
        torch.cat(shards.gather(part, everybody, "nearest").chunk(shards.ranks), dim=1) for part in (best, classes)
    )
    first = sum(sizes[: shards.rank])
    mine = slice(first, first + len(embeddings))
    order = best[mine].argsort(dim=1, descending=True, stable=True)[:, :k]  # ties to the lower class
    return best[mine].gather(1, order), classes[mine].gather(1, order)
