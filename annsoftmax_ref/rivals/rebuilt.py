"""What the rivals share: a structure over the weight rows, rebuilt from time to time, and lists of candidates."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from annsoftmax_ref import rows as weight_rows
from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.host_numbers import number, set_number
from annsoftmax_ref.row_change import Commit, RowChange
from annsoftmax_ref.row_parameter import unwatching
from annsoftmax_ref.selectors import Selector


class RebuiltClasses(Selector):
    """Base of selectors that rebuild what they know of the weights every ``rebuild_steps`` training steps.

    The first training step builds it; in between nothing is updated. All that is kept are buffers of shapes known at
    ``bind``, so that a head that is saved and loaded goes on as if it had never stopped.
    """

    def __init__(self, sample_rate: float, rebuild_steps: int, groups: int | None = 1, grouping: str = "similar"):
        super().__init__(sample_rate, groups, grouping)
        self.rebuild_steps = check_positive_int("rebuild_steps", rebuild_steps)
        self.register_buffer("steps_left", torch.zeros((), dtype=torch.int64))  # until the next rebuild
        self.register_buffer("built", torch.zeros((), dtype=torch.uint8))

    @abstractmethod
    def rebuild(self, directions: Tensor, generator: torch.Generator) -> None:
        """Write the buffers anew for directions [N, d], the weight's rows scaled to length 1."""

    @abstractmethod
    def candidates(self, x: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
        """x [B, d] unit rows, labels [B], weight [N, d] -> each sample's classes [B, k], best first, then -1."""

    def weight_replaced(self) -> None:
        set_number(self.steps_left, 0)

    def changing(self, change: RowChange, rows: Tensor) -> Commit:
        """As the base; the next training step builds it, as for a new head."""
        bound = super().changing(change, rows)

        def commit() -> None:
            bound()
            set_number(self.steps_left, 0)
            set_number(self.built, False)

        return commit

    @torch.no_grad()
    @unwatching
    def prepare(self, weight: Tensor, generator: torch.Generator) -> None:
        left = number(self.steps_left)
        if left == 0:
            weight_rows.catch_up(weight)
            with torch.autocast(weight.device.type, enabled=False):
                self.rebuild(weight_rows.unit_rows(weight), generator)
            set_number(self.built, True)
            left = self.rebuild_steps
        set_number(self.steps_left, left - 1)

    @torch.no_grad()
    @unwatching
    def select(self, x, labels, weight, generator):
        if not number(self.built):
            raise RuntimeError("the selector has built nothing yet; call prepare first")
        # Which classes are near is not to depend on bfloat16 rounding.
        with torch.autocast(x.device.type, enabled=False):
            candidates = self.candidates(x, labels, weight)
        return self.union(self.groups_of(x, generator), candidates, labels, generator)


def spans(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """starts, lengths [n] -> for every place of every span, whose it is and where: owners [m], places [m]."""
    owners = torch.repeat_interleave(torch.arange(len(starts), device=starts.device), lengths)
    before = lengths.cumsum(0) - lengths
    return owners, starts[owners] + torch.arange(len(owners), device=starts.device) - before[owners]


def as_rows(samples: Tensor, classes: Tensor, batch: int, most: int) -> Tensor:
    """samples [m] ascending, classes [m] best first for each sample -> [batch, k], k <= most, filled up with -1."""
    counts = torch.bincount(samples, minlength=batch)
    before = counts.cumsum(0) - counts
    columns = torch.arange(len(samples), device=samples.device) - before[samples]
    table = classes.new_full((batch, min(most, int(counts.max()))), -1)
    kept = columns < most
    table[samples[kept], columns[kept]] = classes[kept]
    return table
