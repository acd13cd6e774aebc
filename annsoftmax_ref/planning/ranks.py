"""One of the processes that the classes are split over: its part of a job, the memory it takes, and how few would do.

Every process scores the whole batch, against its own part of each active set (``annsoftmax_ref.shards``). So products
and logits of all processes together are those of one, and what each is sent does not depend on the classes' number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from annsoftmax_ref.global_order import WIDEST
from annsoftmax_ref.nearest import SIGMAS
from annsoftmax_ref.planning.memory import ID, Training, total
from annsoftmax_ref.shards import range_of, round_half_up

NODE = 8  # cards in a machine
MOST = 1 << 12  # processes that are looked at: where these do not hold a job, its batch is what does not fit


@dataclass(frozen=True)
class Rank(Training):
    """A process's part of ``whole``: ``classes`` are its own rows, ``batch`` is everybody's.

    Of the P processes it is the fullest: it has ceil(N / P) rows, and the most places that any has in an active set, if
    these are shared evenly. Where candidates are cut they are shared by need, up to ``global_order.MOST`` times that;
    with classes in a random order that is about the same.
    """

    whole: Training | None = None
    ranks: int = 1

    @property
    def active(self) -> int:
        """Of an active set, the classes here."""
        return max(1, *shares(self.whole.active, self.whole.classes, self.ranks))

    @property
    def sets(self) -> int:
        """Active sets a batch: as many as if one process had all classes."""
        return self.whole.sets

    @property
    def in_one_pass(self) -> bool:
        """As the base: a head that is split has no captured step."""
        return False

    @property
    def candidates(self) -> int:
        """As the base: what may well be here of the whole's, by the spread of a binomial distribution."""
        here = self.whole.candidates * self.classes / self.whole.classes
        return min(math.ceil(here + SIGMAS * math.sqrt(here)) + 1, self.classes)

    @property
    def gathered(self) -> int:
        """Bytes of everybody's embeddings, as they came, of length 1, and their gradient, in float32 each, a copy for
        products, and their cosines with the lists' mean rows, and the gradient of these."""
        copy = self.product_width if self.product_width < 4 else 0
        return self.batch * (self.dim * (3 * 4 + copy) + 2 * self.nlist * self.product_width)

    def of_others(self, moment: str) -> int:
        """As the base."""
        return self.gathered + (self._ordered if moment == "search" and self.whole.cuts else 0)

    @property
    def columns(self) -> int:
        """Of the table in which candidates stand by their ranks among all processes' (``global_order``)."""
        return max(self.candidates, min(self.ranks * self.candidates, WIDEST))

    @property
    def _ordered(self) -> int:
        """Bytes of that table: as class ids, three times, and whether there are any; or once, and a group's twice more
        with the columns."""
        return self.columns * max(self.batch * (3 * ID + 1), self.batch * ID + self.group * (2 * ID + 4))


def rank_of(job: Training, ranks: int) -> Rank:
    """The fullest of so many processes."""
    given = {field.name: getattr(job, field.name) for field in fields(Training)}
    return Rank(**given | {"classes": -(-job.classes // ranks)}, whole=job, ranks=ranks)


def shares(whole: int, classes: int, ranks: int) -> list[int]:
    """Each process's part of a number that is split as the classes are; their sum is ``whole``."""
    ends = [0] + [range_of(classes, rank, ranks)[1] for rank in range(ranks)]
    parts = [round_half_up(whole * end, classes) for end in ends]
    return [last - first for first, last in zip(parts, parts[1:], strict=False)]


def fewest(job: Training, room: int, each: int | None = None) -> int | None:
    """The fewest processes, of so many bytes each, that hold the job; None where 4,096 do not.

    each: samples of every process, instead of the job's batch for all together: fewer processes have fewer logits then.
    """

    def fits(ranks: int) -> bool:
        return total(rank_of(job if each is None else replace(job, batch=each * ranks), ranks)) <= room

    few, many = 0, 1
    while not fits(many):
        few, many = many, 2 * many
        if few >= MOST:
            return None
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if fits(middle) else (middle, many)
    return many


def whole_nodes(ranks: int) -> int:
    """Machines of eight cards that so many processes fill, or begin to."""
    return -(-ranks // NODE)
