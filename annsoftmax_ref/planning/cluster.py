"""A head split over many cards: what each takes and is sent, how long a step and a training last, how few would do.

``annsoftmax plan --ranks``. Beside the model of one card (``memory``, ``times``) it rests on ``ranks`` and
``communication``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.experiments.runs import STORAGES
from annsoftmax_ref.planning import communication, memory, ranks, times

SAMPLES, EPOCHS = 20, 10  # a class, and how often each is seen, where nobody says: assumptions
DAY = 86_400e3  # milliseconds


@dataclass(frozen=True)
class Cluster:
    """ranks: processes, one a card ``gpu``. beside: GiB of each that something else takes. samples: of the data set;
    None: 20 a class. backbone_ms: that a step takes beside the head's."""

    ranks: int
    gpu: str
    beside: float = 4.0
    samples: int | None = None
    epochs: int = EPOCHS
    backbone_ms: float = 0.0

    def __post_init__(self):
        for name in ("ranks", "epochs"):
            check_positive_int(name, getattr(self, name))
        if self.samples is not None:
            check_positive_int("samples", self.samples)
        if not self.backbone_ms >= 0:
            raise ValueError(f"backbone_ms is {self.backbone_ms}; it should be at least 0")

    @property
    def room(self) -> int:
        """Bytes of a card that are left to the head."""
        return times.room(self.gpu, self.beside)


def plan_of_cluster(job: memory.Training, cluster: Cluster) -> dict:
    """{"rows", "active_here": of the fullest process, "kept", "step": bytes by part and moment, "received": bytes by
    name, "stages_ms", "exchange_ms", "days", "smallest": {storage: {"same_batch", "same_each"}}, ...}.

    smallest: GPUs, None where no number of them is enough. Raises ValueError.
    """
    P, card, room = cluster.ranks, times.CARDS[cluster.gpu], cluster.room
    rank = ranks.rank_of(job, P)
    stages, exchange = times.stages(rank, card), communication.exchange_ms(job, P, communication.LINKS[cluster.gpu])
    step_ms = sum(stages.values()) + sum(exchange.values()) + cluster.backbone_ms
    samples = cluster.samples or SAMPLES * job.classes
    steps = -(-samples * cluster.epochs // job.batch)
    return {
        **vars(job),
        "gpu": cluster.gpu,
        "beside_gib": cluster.beside,
        "ranks": P,
        "rows": rank.classes,
        "active": job.active,
        "active_here": rank.active,
        "sets": job.sets,
        "kept": memory.kept(rank),
        "step": memory.moments(rank),
        "gathered": rank.gathered,
        "total": memory.total(rank),
        "room": room,
        "largest": memory.largest(job, room, lambda other: memory.total(ranks.rank_of(other, P))),
        "received": communication.received(job, P),
        "stages_ms": stages,
        "exchange_ms": exchange,
        "backbone_ms": cluster.backbone_ms,
        "step_ms": step_ms,
        "full_ms": sum(times.full_stages(rank, card).values()) + sum(exchange.values()) + cluster.backbone_ms,
        "samples": samples,
        "epochs": cluster.epochs,
        "steps": steps,
        "days": steps * step_ms / DAY,
        "smallest": {storage: _smallest(replace(job, storage=storage), P, room) for storage in _storages(job)},
    }


def _storages(job: memory.Training) -> list[str]:
    """Those that its optimizer can have."""
    return [storage for storage in STORAGES if not (storage == "fp8_int8" and job.optimizer == "adamw")]


def _smallest(job: memory.Training, asked: int, room: int) -> dict[str, int | None]:
    """With the batch asked for, and with as many samples a GPU as it is with so many."""
    return {
        "same_batch": ranks.fewest(job, room),
        "same_each": ranks.fewest(job, room, max(1, job.batch // asked)),
    }
