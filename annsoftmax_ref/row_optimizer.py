"""RowOptimizer: the bookkeeping of which rows lag behind their optimizer by how many steps.

What a missed step does is the business of ``annsoftmax_ref.optim``; this file knows only that the steps missed by a
row have a closed form that depends on how many they are, its age, and keeps one table entry for each age.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from annsoftmax_ref import backend, rows
from annsoftmax_ref.row_parameter import row_state, rows_moved, set_owner, unwatched, writing

# Ages the table covers. A sweep catches up N / WINDOW rows in each step, so that no row grows older.
WINDOW = 1024


class RowOps(NamedTuple):
    """Ops of ``kernels_inline.rows_ops``, which take a row's buffers in the order of ``RowOptimizer.buffers``."""

    step: Callable[..., Tensor]
    catch_up: Callable[..., None]


class RowOptimizer(torch.optim.Optimizer, ABC):
    """What RowSGD and RowAdamW share: the bookkeeping of which row lags by how much.

    A subclass says what a step with a gradient does, and what missed steps do. A parameter whose gradient is dense
    takes the same step on all rows: backbone and head can share one optimizer.
    """

    # The names of a row's buffers.
    buffers: tuple[str, ...] = ()
    ops: RowOps
    half_ops: RowOps  # of bfloat16 rows, by kernels
    half_twins: RowOps  # and in plain torch
    seed: int  # of the rounding of bfloat16 rows

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step_weight(weight, group)
        return loss

    def _step_weight(self, weight: Tensor, group: dict) -> None:
        state = self._state(weight, group)
        if weight.grad.is_sparse:
            set_owner(weight, self)
        with unwatched(), writing(weight):
            if weight.grad.is_sparse:
                ids, codes = self._step_rows(weight, *rows.row_gradient(weight.grad), state, group)
            elif _is_half(weight):  # as rows, which are rounded at random
                everything = torch.arange(len(weight), device=weight.device)
                ids, codes = self._step_rows(weight, everything, weight.grad, state, group)
                state["behind"] = False
            else:
                self.catch_up(weight)
                state["step"] += 1
                self.move(weight, weight.grad, self._buffers(state), group, state["step"])
                state["last"] = ids = codes = None  # every row has moved, and is up to date
        rows_moved(weight, ids, codes)

    def _step_rows(self, weight, ids: Tensor, grad: Tensor, state: dict, group: dict) -> tuple[Tensor, Tensor | None]:
        """Step rows ids [n] by grad [n, d] -> the ids, and their sign codes if an index wants them."""
        self._sweep(weight, state)
        fused = self._fused(weight)
        if fused is None:  # the kernel catches up on the way
            self._catch_up(weight, ids, state)
        state["step"] += 1
        if state["last"] is None:
            state["last"] = torch.full((len(weight),), state["step"] - 1, dtype=torch.int64, device=weight.device)
            state["table"] = self.identity().repeat(WINDOW + 1, 1)
        wanted, codes = row_state(weight).wants_codes, None
        if fused is not None:
            codes = fused.step(*self._rows(weight, state, ids), grad.to(weight.dtype), *self._by_age(weight, state),
                               *self.numbers(group), *self._seeds(weight), wanted)  # fmt: skip
        else:
            row, buffers = self._read(weight, state, ids)
            self.move(row, grad, buffers, group, state["step"])
            self._write(weight, state, ids, row, buffers)
        state["table"] = self.advanced(state["table"], group, state["step"])
        state["behind"] = True
        return ids, codes if wanted else None

    @torch.no_grad()
    def catch_up(self, weight: Tensor, ids: Tensor | None = None) -> None:
        """Apply the steps that rows ``ids`` [n] (all rows if None) of ``weight`` have missed."""
        state = self.state.get(weight)
        if not state or state["last"] is None or not state["behind"]:
            return
        with unwatched(), writing(weight):
            self._catch_up(weight, ids, state)
        row_state(weight).caught_up(weight, ids)
        state["behind"] = ids is not None

    def _catch_up(self, weight: Tensor, ids: Tensor | None, state: dict) -> None:
        if state["last"] is None:
            return
        fused = self._fused(weight)
        if fused is not None:
            ids = torch.arange(len(weight), device=weight.device) if ids is None else ids
            numbers = self.catch_up_numbers(self._group_of(weight))
            fused.catch_up(*self._rows(weight, state, ids), *self._by_age(weight, state), *numbers,
                           *self._seeds(weight))  # fmt: skip
            return
        last = state["last"] if ids is None else state["last"].index_select(0, ids)
        lagging = (last < state["step"]).nonzero().squeeze(1)
        if len(lagging) == 0:
            return
        age = state["step"] - last[lagging]
        ids = lagging if ids is None else ids[lagging]
        entries = state["table"].to(weight.device)[age]  # [n, columns]
        row, buffers = self._read(weight, state, ids)
        self.apply(entries, row, buffers, self._group_of(weight))
        self._write(weight, state, ids, row, buffers)

    def flush(self) -> None:
        """Bring every row of every parameter up to date, as the dense optimizer would have it now."""
        for group in self.param_groups:
            for weight in group["params"]:
                self.catch_up(weight)

    def state_dict(self):
        """Flushes, then gives the state; it holds no lag, and has the names of the dense torch optimizer."""
        self.flush()
        saved = super().state_dict()
        saved["state"] = {
            key: {name: value for name, value in state.items() if name not in ("last", "table", "behind")}
            for key, state in saved["state"].items()
        }
        return saved

    def load_state_dict(self, state_dict) -> None:
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state["step"] = int(state.get("step", 0))
            state.update(last=None, table=None, behind=False, cursor=state.get("cursor", 0))

    def _state(self, weight: Tensor, group: dict) -> dict:
        state = self.state[weight]
        if not state:
            state.update(step=0, last=None, table=None, behind=False, cursor=0)
        for name in self.buffers:
            if state.setdefault(name, None) is None and self.has_buffers(group):
                self.catch_up(weight)  # by the steps before it, which knew of none
                state[name] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        return state

    def has_buffers(self, group: dict) -> bool:
        """Whether a step needs the buffers; where none has, they are None."""
        return True

    def _buffers(self, state: dict) -> list[Tensor | None]:
        return [state[name] for name in self.buffers]

    def _sweep(self, weight: Tensor, state: dict) -> None:
        slice_size = -(-len(weight) // WINDOW)
        first = state["cursor"]
        ids = torch.arange(first, min(first + slice_size, len(weight)), device=weight.device)
        if state["behind"]:
            self._catch_up(weight, ids, state)
            row_state(weight).caught_up(weight, ids)
        state["cursor"] = 0 if first + slice_size >= len(weight) else first + slice_size

    def _read(self, weight: Tensor, state: dict, ids: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        return weight.index_select(0, ids), [b if b is None else b.index_select(0, ids) for b in self._buffers(state)]

    def _write(self, weight: Tensor, state: dict, ids: Tensor, row: Tensor, buffers: list[Tensor | None]) -> None:
        for kept, part in zip((weight, *self._buffers(state)), (row, *buffers), strict=True):
            if kept is not None:
                kept.index_copy_(0, ids, part)
        state["last"].index_fill_(0, ids, state["step"])

    def _fused(self, weight: Tensor) -> RowOps | None:
        """What catches up and steps rows in one go; None: ``apply`` and ``move`` do."""
        if _is_half(weight):
            somewhere = torch.empty(0, dtype=torch.int64, device=weight.device)
            return self.half_ops if backend.runs(self.half_ops.step, somewhere) else self.half_twins
        fits = weight.dim() == 2 and weight.is_contiguous() and backend.runs(self.ops.step, weight)
        return self.ops if fits else None

    def _seeds(self, weight: Tensor) -> tuple[int, ...]:
        return (self.seed,) if _is_half(weight) else ()

    def _rows(self, weight: Tensor, state: dict, ids: Tensor) -> tuple[Tensor, ...]:
        """What every kernel takes first."""
        return weight.detach(), *self._buffers(state), state["last"], ids

    @staticmethod
    def _by_age(weight: Tensor, state: dict) -> tuple[Tensor, int]:
        """The table by age where the kernel can read it, and the step. At 40 KB a GPU's copy is not waited for."""
        return state["table"].to(weight.device, non_blocking=True), state["step"]

    def _group_of(self, weight: Tensor) -> dict:
        return next(g for g in self.param_groups if any(p is weight for p in g["params"]))

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
    def numbers(self, group: dict) -> tuple:
        """The hyper-parameters in the order in which ``RowOps.step`` takes them."""

    def catch_up_numbers(self, group: dict) -> tuple:
        """Those that ``RowOps.catch_up`` takes: none but what the table holds."""
        return ()


def _is_half(weight: Tensor) -> bool:
    """Whether its rows are kept in bfloat16, where rounding to the nearest would lose small updates."""
    return weight.dtype == torch.bfloat16 and weight.dim() == 2 and weight.is_contiguous()
