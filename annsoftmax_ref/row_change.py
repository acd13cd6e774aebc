"""Rows that are added at the end of a weight, or taken out of it, and what becomes of all that has a row for each.

A change is made in two halves, so that an error leaves everything as it was. First all that are concerned, the head's
parameters, optimizers, the selector and its index, make what they will have beside what they have, and give a
``Commit``; then these are called, which put it in place and do nothing else. So a change copies all rows, and takes as
much memory again while it runs; nothing is computed but of rows that are new.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

Commit = Callable[[], object]  # puts in place what was made


class RowChange:
    """Of ``before`` rows those numbered ``kept`` [m], ascending (None: all), stay in their order; ``added`` follow."""

    def __init__(self, before: int, kept: Tensor | None = None, added: int = 0):
        self.before, self.kept, self.added = before, kept, added
        self.staying = before if kept is None else len(kept)
        self.after = self.staying + added

    def of(self, rows: Tensor, new: Tensor | float = 0) -> Tensor:
        """rows [before, ...] -> [after, ...], a copy in memory of its own; new: what stands in those that come."""
        if rows.is_sparse:
            return self._of_sparse(rows)
        made = rows.new_empty(self.after, *rows.shape[1:])
        if self.kept is None:
            made[: self.staying].copy_(rows)
        else:
            torch.index_select(rows, 0, self.kept.to(rows.device), out=made[: self.staying])
        if self.added:
            made[self.staying :] = new
        return made

    def of_ids(self, ids: Tensor, *values: Tensor | None) -> tuple[Tensor | None, ...]:
        """ids [n] of rows, and a value of each [n, ...] -> the numbers that they will have, without those that go."""
        if self.kept is None:
            return ids, *values
        places = self.places.to(ids.device)[ids]
        stays = places >= 0
        return places[stays], *(value if value is None else value[stays] for value in values)

    @functools.cached_property
    def places(self) -> Tensor:
        """The row that each of the rows before becomes [before], -1 for one that goes."""
        if self.kept is None:
            return torch.arange(self.before)
        places = self.kept.new_full((self.before,), -1)
        places[self.kept] = torch.arange(len(self.kept), device=places.device)
        return places

    @functools.cached_property
    def gone(self) -> Tensor:
        """The numbers of the rows that go [before - m], ascending."""
        return (self.places < 0).nonzero().squeeze(1)

    def place_of(self, cursor: int) -> int:
        """Where to go on that was to go on at row ``cursor``: the first of the rows from there that stays."""
        staying = cursor if self.kept is None else int((self.kept < cursor).sum())
        return staying % self.after

    def _of_sparse(self, rows: Tensor) -> Tensor:
        ids, values = self.of_ids(rows._indices()[0], rows._values())
        shape = (self.after, *rows.shape[1:])
        return torch.sparse_coo_tensor(
            ids[None], values, shape, is_coalesced=rows.is_coalesced(), check_invariants=False
        )
