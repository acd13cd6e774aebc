"""One process of many, without the others: torch's ``fake`` process group, whose collectives return at once.

What this process would be sent has its shape and is its own values again, so that shapes, bytes and memory are those of
a real group, and results are not. ``inject`` puts random samples in the others' place.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from annsoftmax_ref.shards import Shards


@contextlib.contextmanager
def one_of_many(rank: int, ranks: int) -> Iterator[dist.ProcessGroup]:
    """Be process ``rank`` of so many inside the block, which gets their group. ValueError where there is one."""
    if dist.is_initialized():
        raise ValueError("a process group is initialized already; it should not be, where one is to be simulated")
    hook = sys.excepthook
    dist.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
    try:
        yield dist.group.WORLD
    finally:
        dist.destroy_process_group()
        sys.excepthook = hook  # torch's, which names the process, would stay


def inject(shards: Shards, seed: int = 0) -> None:
    """From now on, random embeddings and labels come in place of what all processes have, and as many candidates as
    there are here from each of the others."""
    gather, total, generators = shards.gather, shards.total, {}

    def injected(values: Tensor, sizes: list[int], name: str) -> Tensor:
        whole = gather(values, sizes, name)
        generator = generators.setdefault(whole.device, torch.Generator(whole.device).manual_seed(seed))
        if name == "features":
            whole.normal_(generator=generator)
        elif name == "labels":
            whole.random_(0, shards.num_classes, generator=generator)
        return whole

    def as_many(values: Tensor, name: str) -> Tensor:
        return total(values, name) * (shards.ranks if name == "order" else 1)

    shards.gather, shards.total = injected, as_many
