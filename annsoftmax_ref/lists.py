"""Inverted lists that rows can move between: which class ids stand in which list.

A table ``slots [nlist, capacity]`` holds class ids, -1 where a slot is free. A row that moves leaves a hole
behind and is appended to its new list, so a move costs the moved rows, not all. Only when a list runs out of
slots is the table laid out again, with room to spare, which happens after ever more moves. Beside it stand the
members' codes, word by word (``slot_codes [nlist, W, capacity]``), so that a scan reads them in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

SLACK = 1.25  # slots a list gets for each member when the table is laid out


class InvertedLists:
    """``assignment [N]`` (the list of each class) and ``codes [N, W]`` as lists that can be changed in place.

    Both tensors stay the truth and are written to; slots and slot_codes repeat them in the order of the lists.
    """

    def __init__(self, assignment: Tensor, codes: Tensor, nlist: int):
        self.assignment, self.codes = assignment, codes
        self.nlist = nlist
        self._lay_out()

    def _lay_out(self) -> None:
        lists, device = self.assignment, self.assignment.device
        self.sizes = sizes = torch.bincount(lists, minlength=self.nlist)  # members of each list
        # A multiple of 8 words, so that each list's codes begin at a cache line.
        capacity = -(-(int(int(sizes.max()) * SLACK) + 8) // 8) * 8
        self.slots = torch.full((self.nlist, capacity), -1, dtype=torch.int64, device=device)
        self.slot_codes = self.codes.new_zeros(self.nlist, self.codes.shape[1], capacity)
        self.place = torch.empty_like(lists)  # each class's slot within its list
        self.ends = torch.zeros_like(sizes)  # one past the last slot used, holes included
        self._append(torch.arange(len(lists), device=device), lists)

    def _append(self, ids: Tensor, lists: Tensor) -> None:
        order = torch.argsort(lists, stable=True)
        ids, lists = ids[order], lists[order]
        counts = torch.bincount(lists, minlength=self.nlist)
        first = counts.cumsum(0) - counts  # where each list's run begins in the sorted ids
        place = self.ends[lists] + torch.arange(len(ids), device=ids.device) - first[lists]
        self.slots[lists, place] = ids
        self.slot_codes[lists, :, place] = self.codes[ids]
        self.place[ids] = place
        self.ends += counts

    def write_codes(self, ids: Tensor, codes: Tensor) -> None:
        """New codes [n, W] of classes ids [n]."""
        self.codes[ids] = codes
        self.slot_codes[self.assignment[ids], :, self.place[ids]] = codes

    def move(self, ids: Tensor, lists: Tensor) -> int:
        """Put classes ids [n] (distinct) into lists [n]; those already there stay. Returns how many moved."""
        changed = self.assignment[ids] != lists
        ids, lists = ids[changed], lists[changed]
        if len(ids) == 0:
            return 0
        left = self.assignment[ids]
        self.slots[left, self.place[ids]] = -1
        self.assignment[ids] = lists
        counts = torch.bincount(lists, minlength=self.nlist)
        self.sizes += counts - torch.bincount(left, minlength=self.nlist)
        if int((self.ends + counts).max()) > self.slots.shape[1]:
            self._lay_out()
        else:
            self._append(ids, lists)
        return len(ids)
