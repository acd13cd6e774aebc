"""The memory of a head in training, by part: what is kept from step to step, and what a step makes beside it.

Both are counted from shapes. The tests hold them against what torch's allocator gave (tests/planning).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from annsoftmax_ref.active_sets import active_count
from annsoftmax_ref.checks import check_from_0, check_positive_int, check_rate
from annsoftmax_ref.experiments.runs import STORAGES
from annsoftmax_ref.grouping import groups_by_rule
from annsoftmax_ref.list_sizes import default_nlist
from annsoftmax_ref.lists import SLACK
from kernels_inline.bits import words_for

BUFFERS = {"sgd": 1, "sgd_without_momentum": 0, "adamw": 2}  # of an optimizer, each of the weight's size
PRODUCTS = {"fp32": torch.float32, "bf16": torch.bfloat16}
ID = 8  # bytes of a class id
LARGEST_LIST = 1.1  # over the mean, of rows that are spread evenly; 3.7 of rows in clusters (bench.vectors)


@dataclass(frozen=True)
class Training:
    """A head to be trained: NearestClasses over classes N of dim d, by batches of B samples.

    groups: active sets a batch; None: by the rule. storage: of weights and the optimizer's buffers (fp8_int8: with
    SGD). products: what the matrix products are taken in (bf16: autocast). flat: as NearestClasses' (0: inverted lists;
    what a GPU takes is 1).
    """

    classes: int
    dim: int = 512
    batch: int = 512
    rate: float = 0.1
    groups: int | None = None
    storage: str = "fp32"
    products: str = "bf16"
    optimizer: str = "sgd"
    flat: int = 0

    def __post_init__(self):
        for name in ("classes", "dim", "batch"):
            check_positive_int(name, getattr(self, name))
        check_rate(self.rate)
        if self.groups is not None:
            check_positive_int("groups", self.groups)
        for name, known in (("storage", STORAGES), ("products", PRODUCTS), ("optimizer", BUFFERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it should be one of {', '.join(known)}")
        if self.optimizer == "adamw" and self.storage == "fp8_int8":
            raise ValueError("storage is 'fp8_int8' with adamw; only SGD's momentum is kept in 8 bits: take fp8")
        if check_from_0("flat", self.flat) > 2:
            raise ValueError(f"flat is {self.flat}; it should be 0, 1 or 2")

    @property
    def active(self) -> int:
        """Classes of an active set."""
        return active_count(self.classes, self.rate)

    @property
    def sets(self) -> int:
        """Active sets a batch."""
        wanted = groups_by_rule(self.batch, self.active) if self.groups is None else self.groups
        return min(wanted, self.batch)

    @property
    def group(self) -> int:
        """Samples of the largest group."""
        return -(-self.batch // self.sets)

    @property
    def candidates(self) -> int:
        """Classes that a sample may bring in, of a search in lists."""
        return min(max(64, self.active // self.group), self.classes)

    @property
    def cuts(self) -> bool:
        """Whether a group may have more candidates than places. A flat search has no candidates."""
        return not self.flat and self.candidates * self.group > self.active

    @property
    def named(self) -> int:
        """Distinct classes of all sets, if these were drawn one by one; of similar sets it is fewer."""
        return round(self.classes * (1 - (1 - self.active / self.classes) ** self.sets))

    @property
    def in_one_pass(self) -> bool:
        """Whether rows are caught up, and moved by their gradient, as they are read: in a captured step, by one set."""
        return self.sets == 1

    @property
    def width(self) -> int:
        """Bytes of a number of the weight."""
        return STORAGES[self.storage].weight.itemsize

    @property
    def buffer_width(self) -> int:
        """Bytes of a number of the optimizer's buffers."""
        return STORAGES[self.storage].momentum.itemsize

    @property
    def gradient_width(self) -> int:
        """Bytes of a number of the rows' gradient."""
        return max(2, self.width)

    @property
    def product_width(self) -> int:
        """Bytes of a number in a matrix product."""
        return PRODUCTS[self.products].itemsize

    @property
    def words(self) -> int:
        """64-bit words of a sign code."""
        return words_for(self.dim)

    @property
    def nlist(self) -> int:
        return default_nlist(self.classes)

    def of_others(self, moment: str) -> int:
        """Bytes that other processes' samples take at a moment of a step; here, where there is one process, none."""
        return 0


def kept(job: Training) -> dict[str, int]:
    """Bytes that are held from step to step, by part."""
    N, d = job.classes, job.dim
    scale = 4 if job.storage == "fp8_int8" else 0  # of each row of a momentum in int8
    slots = 0 if job.flat else N * LARGEST_LIST * SLACK + 8 * job.nlist
    return {
        "weights": N * d * job.width,
        "optimizer's buffers": BUFFERS[job.optimizer] * N * (d * job.buffer_width + scale),
        "step of each row": N * ID,
        "sign codes": N * job.words * 8,
        "clock of each code": N * 4,
        "list and place of each row": (1 if job.flat else 2) * N * ID,
        "lists: ids and codes again": round(slots * (ID + job.words * 8)),
        "centroids and mean rows": 2 * job.nlist * d * 4,
    }


def moments(job: Training) -> dict[str, int]:
    """Bytes that a step has made beside that, at the moments when it has most; its peak is the largest of them."""
    rows, d = job.sets * job.active, job.dim
    ids = rows * ID
    unit = rows * d * job.product_width  # unit rows, and later their gradient
    logits = job.batch * job.active * job.product_width
    union = 0 if job.sets == 1 else ids + 2 * job.named * ID  # places, starts and ids
    gradient = job.named * d * job.gradient_width
    # One set has its gradient in place of the unit rows', if they are of one kind.
    in_place = job.sets == 1 and job.product_width == job.width == 4
    # On the CPU the library turns bfloat16 logits around before it multiplies by them.
    turned = logits if job.product_width == 2 and job.sets == 1 else 0
    each = {
        "search": job.classes * (job.sets if job.flat else 4) + ids,
        "logits": ids + union + unit + logits,
        "gradient of unit rows": ids + union + 2 * unit + logits + turned,
        "gradient of rows": ids + union + 2 * unit + (0 if in_place else gradient),
        "update": ids + union + gradient + job.named * job.words * 8,
    }
    return {moment: count + job.of_others(moment) for moment, count in each.items()}


def total(job: Training) -> int:
    """Bytes at the peak of a step."""
    return sum(kept(job).values()) + max(moments(job).values())


def largest(job: Training, room: int, needed: Callable[[Training], int] = total) -> int:
    """The most classes, about, of which a step fits into so many bytes; 0 if even a few do not.

    needed: bytes of a job with so many.
    """

    def fits(classes: int) -> bool:
        return needed(replace(job, classes=classes)) <= room

    few, many = 0, 1
    while fits(many):
        few, many = many, 2 * many
    while many - few > max(1, few // 1000):
        middle = (few + many) // 2
        few, many = (middle, many) if fits(middle) else (few, middle)
    return few
