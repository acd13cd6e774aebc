"""What an index is told of the rows that have moved; ``row_parameter`` says who writes it, and when it is read."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from annsoftmax_ref.backend import shapes_are_fixed


class RowLog:
    """Which rows have moved since the index that reads this log last looked.

    moved: (ids [n], codes [n, W] or None), a pair for each time that rows moved; codes are the signs of the rows.
    everything: any row may have moved, which ones is not known.
    """

    def __init__(self, wants_codes: bool = False):
        self.wants_codes = wants_codes
        self.source: weakref.ref | None = None  # the RowState whose rows it tells of
        self.clear()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"source": None}  # a copy is of a copied head, and tells of other rows

    def __bool__(self) -> bool:
        return self.everything or bool(self.moved)

    def clear(self) -> None:
        self.moved: list[tuple[Tensor, Tensor | None]] = []
        self.everything = False

    def add(self, ids: Tensor, codes: Tensor | None, num_rows: int) -> None:
        # Rows that were caught up to be read, and moved by the same batch's gradient, are to be looked at once.
        self.moved = [entry for entry in self.moved if not _are_the_same(entry[0], ids)] + [(ids, codes)]
        if sum(len(ids) for ids, _ in self.moved) > 2 * num_rows:  # nobody reads it: it is not to grow for ever
            self.clear()
            self.everything = True


def _are_the_same(a: Tensor, b: Tensor) -> bool:
    """Whether ids a and b are the same; on a GPU, whose answer would be waited for, whether they lie in one place."""
    return lie_together(a, b) or (not shapes_are_fixed(a) and torch.equal(a, b))


def lie_together(a: Tensor, b: Tensor) -> bool:
    """Whether they are the same memory."""
    here, there = ((t.untyped_storage()._cdata, t.storage_offset(), t.shape, t.stride()) for t in (a, b))
    return here == there
