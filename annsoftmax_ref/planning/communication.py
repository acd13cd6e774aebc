"""What the processes of a split head send each other in a step: every collective, its bytes, and a model of its time.

The bytes are those that ``Shards.received`` counts, to the last one. Times are bytes over a link's rate and hops times
the latency of one; nothing of them is measured.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from annsoftmax_ref.global_order import BINS
from annsoftmax_ref.planning.memory import Training
from annsoftmax_ref.planning.ranks import NODE, rank_of
from annsoftmax_ref.shards import ring_bytes

HEADER = 7 * 8  # bytes that a process says of its batch (``agreement``)
REACHED = 0.8  # of a link's rate, as ``times.ROWS``: an assumption
# Microseconds a hop, from NCCL's own model (src/graph/tuning.cc): of a ring that moves much, of a tree that moves
# little; within a machine and between machines.
RING, TREE = (3.4, 9.6), (0.52, 5.0)
HOST = 25.0  # microseconds a hop between hosts, by TCP: an assumption


@dataclass(frozen=True)
class Link:
    """GB/s that a card receives, from data sheets: inside a machine of eight (half of what NVLink has in both
    directions), and between machines, with a network adapter for each card."""

    inside: float
    between: float


A100 = Link(300, 25)  # DGX A100: NVLink 600 GB/s, eight adapters of 200 Gb/s
H100 = Link(450, 50)  # DGX H100 and H200: NVLink 900 GB/s, eight adapters of 400 Gb/s
LINKS = {"a100-40gb": A100, "a100-80gb": A100, "h100-80gb": H100, "h200-141gb": H100}


class Collective(NamedTuple):
    """name: as ``Shards.received`` has it. kind, count: as ``ring_bytes`` takes them."""

    name: str
    kind: str
    count: int

    @property
    def on_host(self) -> bool:
        return self.name == "header"


def collectives(job: Training, ranks: int) -> list[Collective]:
    """Those of a step, in their order; the batch is split evenly, its embeddings are in the products' kind."""
    each, B = -(-job.batch // ranks), job.batch
    # The range of each sample's scores, their histogram, and one of the best ranks of classes.
    order = [2 * B, B * BINS, rank_of(job, ranks).columns + 1] if job.cuts else []
    softmax = [B] * 3  # the own logit's sum, the others' largest, and their sum
    return [
        Collective("header", "all_gather", HEADER),
        Collective("features", "all_gather", each * job.dim * job.product_width),
        Collective("labels", "all_gather", each * 8),
        *(Collective("order", "all_reduce", count * 4) for count in order),
        *(Collective("softmax", "all_reduce", count * 4) for count in softmax),
        Collective("gradient", "reduce_scatter", each * job.dim * 4),
    ]


def received(job: Training, ranks: int) -> dict[str, int]:
    """Bytes that each process receives in a step, by name."""
    found: Counter[str] = Counter()
    for one in collectives(job, ranks):
        found[one.name] += ring_bytes(one.kind, one.count, ranks)
    return dict(found)


def exchange_ms(job: Training, ranks: int, link: Link) -> dict[str, float]:
    """Milliseconds of a step's collectives, by name, one after the other."""
    found: Counter[str] = Counter()
    for one in collectives(job, ranks):
        found[one.name] += _ms(one, ranks, link)
    return dict(found)


def _ms(one: Collective, ranks: int, link: Link) -> float:
    if one.on_host:  # gloo's ring; it is its hops that take time
        return (ranks - 1) * HOST / 1e3
    nodes = -(-ranks // NODE)
    rate = (link.inside if nodes == 1 else link.between) * 1e9 * REACHED
    return ring_bytes(one.kind, one.count, ranks) / rate * 1e3 + _latency(one.kind, ranks, nodes) / 1e3


def _latency(kind: str, ranks: int, nodes: int) -> float:
    """Microseconds: a tree up and down for sums, else once around a ring."""
    if kind == "all_reduce":
        return 2 * ((-(-ranks // nodes) - 1) * TREE[0] + math.log2(nodes) * TREE[1])
    return (ranks - nodes) * RING[0] + (nodes - 1) * RING[1]
