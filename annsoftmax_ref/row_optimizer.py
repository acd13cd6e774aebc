"""RowOptimizer: the bookkeeping of which rows lag behind their optimizer by how many steps.

What a missed step does is the business of ``annsoftmax_ref.optim``; this file knows only that the steps missed by a
row have a closed form that depends on how many they are, its age, and keeps one table entry for each age.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from annsoftmax_ref import backend, rows
from annsoftmax_ref.host_numbers import each_time, is_recorded, told
from annsoftmax_ref.row_buffers import RowBuffers, RowOps, has_rows
from annsoftmax_ref.row_change import Commit, RowChange
from annsoftmax_ref.row_parameter import row_state, rows_moved, set_owner, unwatched, writing
from kernels_inline.checks import ROW_KINDS, gradient_kind
from kernels_inline.head_ops import gather_normalise

# A sweep catches up N / WINDOW rows in each step, so that no row grows older. The table covers some ages more: where
# classes have come, the sweep gets to a row later than it was going to.
WINDOW = 1024
SPARE = 8  # one part in so many more
PART = 1 << 16  # rows that are caught up at a time: without a kernel they and their buffers are copied on the way


class UnitGradient(NamedTuple):
    """The gradient slope [A, d], float32 or bfloat16, of the unit rows that ``RowOptimizer.unit_rows`` gave for ids [A]
    with norms [A]."""

    weight: Tensor
    ids: Tensor
    slope: Tensor
    norms: Tensor


class RowOptimizer(RowBuffers, ABC):
    """What RowSGD and RowAdamW share: the bookkeeping of which row lags by how much.

    A subclass says what a step with a gradient does, and what missed steps do. A parameter whose gradient is dense
    takes the same step on all rows: backbone and head can share one optimizer.
    """

    twins: RowOps  # in plain torch, of rows that are rounded at random
    seed: int  # of that rounding

    @torch.no_grad()
    def step(self, closure=None, *, of_units: UnitGradient | None = None):
        """As torch's. of_units: of its weight, instead of a gradient; the rows' own is made of it on the way."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if of_units is not None and of_units.weight is weight:
                    self._step_units(weight, group, of_units)
                elif weight.grad is not None:
                    self._step_weight(weight, group)
        return loss

    def _step_units(self, weight: Tensor, group: dict, given: UnitGradient) -> None:
        state = self._state(weight, group)
        set_owner(weight, self)
        with unwatched(), writing(weight):
            moved = self._step_rows(weight, given.ids, given.slope, state, group, given.norms)
        rows_moved(weight, *moved)

    def unit_rows(self, weight: Tensor, ids: Tensor, half: bool) -> tuple[Tensor, Tensor] | None:
        """What ``gather_normalise`` would give of rows ids [A] once they are up to date, which they are not made: unit
        rows [A, d], in bfloat16 if ``half``, and norms [A]. ``step`` by a ``UnitGradient`` is what must follow.

        None if there is no kernel for it.
        """
        if not self.has_kernels(weight):
            return None
        state = self.state.get(weight)
        if not state or not self._lags(state):
            return gather_normalise(weight.detach(), ids, half)
        table, numbers, _ = self._now(weight, state, self._group_of(weight))
        return self.ops.gather(*self._rows(weight, state, ids), table, numbers, half)

    def _step_weight(self, weight: Tensor, group: dict) -> None:
        state = self._state(weight, group)
        if weight.grad.is_sparse:
            set_owner(weight, self)
        with unwatched(), writing(weight):
            if weight.grad.is_sparse:
                ids, codes = self._step_rows(weight, *rows.row_gradient(weight), state, group)
            elif self.rounds(weight):  # as rows
                everything = torch.arange(len(weight), device=weight.device)
                ids, codes = self._step_rows(weight, everything, weight.grad, state, group)
                state["behind"] = False
            else:
                self.catch_up(weight)
                state["step"] += 1
                self.move(weight, weight.grad, self._buffers(state), group, state["step"])
                state["last"] = ids = codes = None  # every row has moved, and is up to date
        rows_moved(weight, ids, codes)

    def _step_rows(
        self, weight, ids: Tensor, grad: Tensor, state: dict, group: dict, norms: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Step rows ids [n] by grad [n, d] -> the ids, and their sign codes if an index wants them.

        norms [n]: as a ``UnitGradient`` has them.
        """
        self._sweep(weight, state)
        fused = self._fused(weight)
        if fused is None:  # the kernel catches up on the way
            self._catch_up(weight, ids, state)
        if state["last"] is None:
            state["last"] = torch.full((len(weight),), state["step"], dtype=torch.int64, device=weight.device)
            state["table"] = self.identity().repeat(WINDOW + WINDOW // SPARE + 1, 1)
        wanted, codes = row_state(weight).wants_codes, None
        each_time(lambda: state.update(step=state["step"] + 1))
        if fused is not None:
            now = self._now(weight, state, group)
            if norms is None or grad.dtype != torch.bfloat16:
                grad = grad.to(gradient_kind(weight))
            codes = fused.step(*self._rows(weight, state, ids), grad, norms, *now, wanted)
        else:
            row, buffers = self._read(weight, state, ids)
            self.move(row, grad, buffers, group, state["step"])
            self._write(weight, state, ids, row, buffers)
        each_time(lambda: state.update(table=self.advanced(state["table"], group, state["step"]), behind=True))
        return ids, codes if wanted else None

    @torch.no_grad()
    def catch_up(self, weight: Tensor, ids: Tensor | None = None) -> None:
        """Apply the steps that rows ``ids`` [n] (all rows if None) of ``weight`` have missed."""
        state = self.state.get(weight)
        if not state or not self._lags(state):
            return
        with unwatched(), writing(weight):
            self._catch_up(weight, ids, state)
        row_state(weight).caught_up(weight, ids)
        state["behind"] = ids is not None

    @staticmethod
    def _lags(state: dict) -> bool:
        """Whether rows may be behind. In a step that is recorded they may be when it is replayed."""
        return state["last"] is not None and (state["behind"] or is_recorded())

    def _catch_up(self, weight: Tensor, ids: Tensor | None, state: dict) -> None:
        if state["last"] is not None:
            ids = torch.arange(len(weight), device=weight.device) if ids is None else ids
            for part in ids.split(PART):
                self._catch_up_part(weight, part, state)

    def _catch_up_part(self, weight: Tensor, ids: Tensor, state: dict) -> None:
        fused = self._fused(weight)
        if fused is not None:
            fused.catch_up(*self._rows(weight, state, ids), *self._now(weight, state, self._group_of(weight)))
            return
        last = state["last"].index_select(0, ids)
        lagging = (last < state["step"]).nonzero().squeeze(1)
        if len(lagging) == 0:
            return
        age, ids = state["step"] - last[lagging], ids[lagging]
        entries = state["table"].to(weight.device)[age]  # [n, columns]
        row, buffers = self._read(weight, state, ids)
        self.apply(entries, row, buffers, self._group_of(weight))
        self._write(weight, state, ids, row, buffers)

    def flush(self) -> None:
        """Bring every row of every parameter up to date, as the dense optimizer would have it now."""
        for group in self.param_groups:
            for weight in group["params"]:
                self.catch_up(weight)

    @torch.no_grad()
    def changing(self, weight: Tensor, change: RowChange) -> Commit:
        """As the base. Rows stay as far behind as they are, but for those that the sweep would reach too late."""
        state = self.state.get(weight)
        if not state:
            return super().changing(weight, change)
        size = -(-change.after // WINDOW)
        cursor = change.place_of(state["cursor"]) // size * size  # where a pass with these strides comes by
        if self._lags(state):
            late = _late(state, change.places, change.after, size, cursor)
            if len(late):
                self.catch_up(weight, late)
        kept = super().changing(weight, change)

        def commit() -> None:
            kept()
            state["cursor"] = cursor

        return commit

    def _state(self, weight: Tensor, group: dict) -> dict:
        state = self.state[weight]
        if not state:
            state.update(step=0, last=None, table=None, behind=False, cursor=0)
        for name in self.buffers:
            if state.setdefault(name, None) is None and self.keeps(name, weight, group):
                self.catch_up(weight)  # by the steps before it, which knew of none
                state[name] = self._placed(self.new_buffer(name, weight), weight)
        return state

    def rounds(self, weight: Tensor) -> bool:
        """Whether its rows or their buffers are in less than float32, where rounding to the nearest would lose small
        updates."""
        return has_rows(weight) and weight.dtype in ROW_KINDS[1:]

    def _sweep(self, weight: Tensor, state: dict) -> None:
        total, size = len(weight), -(-len(weight) // WINDOW)
        if self._lags(state):
            if backend.shapes_are_fixed(weight):  # the last slice has rows of the one before it, too
                start = told(lambda: min(state["cursor"], total - size), weight.device)
                ids = start + torch.arange(size, device=weight.device)
            else:
                ids = torch.arange(state["cursor"], min(state["cursor"] + size, total), device=weight.device)
            self._catch_up(weight, ids, state)
            row_state(weight).caught_up(weight, ids)
        each_time(lambda: state.update(cursor=state["cursor"] + size if state["cursor"] + size < total else 0))

    def _read(self, weight: Tensor, state: dict, ids: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        return weight.index_select(0, ids), [b if b is None else b.index_select(0, ids) for b in self._buffers(state)]

    def _write(self, weight: Tensor, state: dict, ids: Tensor, row: Tensor, buffers: list[Tensor | None]) -> None:
        for kept, part in zip((weight, *self._buffers(state)), (row, *buffers), strict=True):
            if kept is not None:
                kept.index_copy_(0, ids, part)
        state["last"].index_fill_(0, ids, state["step"])

    def _fused(self, weight: Tensor) -> RowOps | None:
        """What catches up and steps rows in one go; None: ``apply`` and ``move`` do."""
        if self.has_kernels(weight):
            return self.ops
        return self.twins if self.rounds(weight) else None

    def _rows(self, weight: Tensor, state: dict, ids: Tensor) -> tuple[Tensor, ...]:
        """What every kernel takes first."""
        return weight.detach(), *self._buffers(state), state["last"], ids

    def _now(self, weight: Tensor, state: dict, group: dict) -> tuple[Tensor, Tensor, int]:
        """The table by age and the step's numbers where kernels can read them, and the seed. At 50 KB a GPU's copy is
        not waited for."""
        table = told(lambda: state["table"], weight.device, torch.float64)
        numbers = told(lambda: self.numbers(group, state["step"]), weight.device, torch.float64)
        return table, numbers, self.seed

    @abstractmethod
    def identity(self) -> Tensor:
        """The table's entry of age 0 [1, columns], float64."""

    @abstractmethod
    def advanced(self, table: Tensor, group: dict, step: int) -> Tensor:
        """table [ages, columns] after step number ``step`` without a gradient; its first entry is of age 0 again."""

    @abstractmethod
    def apply(self, entries: Tensor, weight: Tensor, buffers: list[Tensor | None], group: dict) -> None:
        """Apply entries [n, columns] to rows weight [n, d] and their buffers, in place."""

    @abstractmethod
    def move(self, weight: Tensor, grad: Tensor, buffers: list[Tensor | None], group: dict, step: int) -> None:
        """Step number ``step`` with a gradient, on rows that are up to date, in place."""

    @abstractmethod
    def numbers(self, group: dict, step: int) -> tuple[float, ...]:
        """What step number ``step`` is made of, as ``RowOps`` take it."""


def _late(state: dict, places: Tensor, total: int, size: int, cursor: int) -> Tensor:
    """The rows [m] that would be older than the table goes when a sweep of ``total`` rows, ``size`` in each step and
    from ``cursor`` on, comes to the places [N] where they are to be; -1: nowhere."""
    places = places.to(state["last"].device)
    to_the_end = -(-(total - cursor) // size)  # steps
    steps = torch.where(places >= cursor, (places - cursor) // size, to_the_end + places // size)
    return ((places >= 0) & (state["step"] + steps - state["last"] >= len(state["table"]))).nonzero().squeeze(1)
