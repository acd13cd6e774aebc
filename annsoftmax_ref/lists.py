"""Inverted lists that rows can move between: which class ids stand in which list.

A table ``slots [nlist, capacity]`` holds class ids, -1 where a slot is free. A row that moves leaves a hole
behind and is appended to its new list, so a move costs the moved rows, not all. Only when a list runs out of
slots is the table laid out again, with room to spare, which happens after ever more moves. A GPU's answer whether one
has would be waited for: there rows that find no slot stay where they are, until ``make_room`` looks. Beside the slots
stand the members' codes, word by word (``slot_codes [nlist, W, capacity]``), so that a scan reads them in a row.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref.row_change import RowChange

FULL = 0.9  # of a list's slots: more are used, and there is soon no room on a GPU
SLACK = 1.25  # slots a list gets for each member when the table is laid out


class ListSizes:
    """Which list each class is in, and how many each has, for a search that reads all codes: ``InvertedLists`` without
    slots."""

    def __init__(self, assignment: Tensor, codes: Tensor, nlist: int):
        self.assignment, self.codes = assignment, codes
        self.nlist = nlist
        self.sizes = counts_of(assignment, nlist)

    def write_codes(self, ids: Tensor, codes: Tensor) -> None:
        """New codes [n, W] of classes ids [n]."""
        self.codes[ids] = codes

    def move(self, ids: Tensor, lists: Tensor) -> Tensor:
        """Put classes ids [n] (distinct) into lists [n]. Returns how many moved."""
        left = self.assignment[ids]
        self.assignment[ids] = lists
        self.sizes += counts_of(lists, self.nlist) - counts_of(left, self.nlist)
        return (left != lists).sum()

    def make_room(self) -> bool:
        return False

    def changed(self, change: RowChange, assignment: Tensor, codes: Tensor) -> ListSizes:
        """The same of the classes after a change, whose assignment [N'] and codes [N', W] are given."""
        made = copy.copy(self)
        made.assignment, made.codes = assignment, codes
        made.sizes = self.sizes + counts_of(assignment[change.staying :], self.nlist)
        if change.kept is not None:
            made.sizes -= counts_of(self.assignment[change.gone], self.nlist)
        return made

    def tensors(self) -> list[Tensor]:
        return [self.sizes]


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

    def move(self, ids: Tensor, lists: Tensor) -> int | Tensor:
        """Put classes ids [n] (distinct) into lists [n]; those already there stay. Returns how many moved."""
        if backend.shapes_are_fixed(ids):
            return self._move_where_there_is_room(ids, lists)
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

    def changed(self, change: RowChange, assignment: Tensor, codes: Tensor) -> InvertedLists:
        """The same of the classes after a change, whose assignment [N'] and codes [N', W] are given.

        Who stays keeps his slot, by his new number. Who goes leaves a hole, who comes is appended, as by ``move``.
        """
        made, arriving = copy.copy(self), assignment[change.staying :]
        made.assignment, made.codes = assignment, codes
        counts = counts_of(arriving, self.nlist)
        if int((self.ends + counts).max()) > self.slots.shape[1]:
            made._lay_out()
            return made
        made.slots, made.slot_codes, made.ends = self.slots.clone(), self.slot_codes.clone(), self.ends.clone()
        made.sizes = self.sizes + counts
        if change.kept is not None:
            places = change.places.to(self.slots.device)
            made.slots = torch.where(self.slots < 0, -1, places[self.slots.clamp_min(0)])
            made.sizes -= counts_of(self.assignment[change.gone], self.nlist)
        made.place = change.of(self.place)
        made._append(torch.arange(change.staying, change.after, device=arriving.device), arriving)
        return made

    def make_room(self) -> bool:
        """Lay the table out again if a list is nearly full; whether one was. A GPU is waited for."""
        is_full = int(self.ends.max()) > FULL * self.slots.shape[1]
        if is_full:
            self._lay_out()
        return is_full

    def tensors(self) -> list[Tensor]:
        return [self.slots, self.slot_codes, self.place, self.ends, self.sizes]

    def _move_where_there_is_room(self, ids: Tensor, lists: Tensor) -> Tensor:
        """``move`` in operations whose shapes do not depend on the data; how many moved stays on the device."""
        capacity, left, nobody = self.slots.shape[1], self.assignment[ids], self.nlist
        wanted = torch.where(left != lists, lists, nobody)  # where each goes, if it goes
        arriving = counts_of(wanted, self.nlist + 1)
        by_list, order = wanted.sort(stable=True)
        rank = torch.arange(len(ids), device=ids.device) - (arriving.cumsum(0) - arriving)[by_list]
        place = torch.empty_like(ids).scatter_(0, order, rank) + self.ends[lists]
        goes = (wanted < nobody) & (place < capacity)
        lists, place = torch.where(goes, lists, left), torch.where(goes, place, self.place[ids])
        slots = self.slots.view(-1)
        slots[left * capacity + self.place[ids]] = torch.where(goes, -1, ids)
        slots[lists * capacity + place] = ids
        self.slot_codes[lists, :, place] = self.codes[ids]
        self.assignment[ids], self.place[ids] = lists, place
        self.ends.copy_((self.ends + arriving[:-1]).clamp_max(capacity))
        self.sizes += counts_of(torch.where(goes, lists, nobody), nobody + 1)[:-1]
        self.sizes -= counts_of(torch.where(goes, left, nobody), nobody + 1)[:-1]
        return goes.sum()


def counts_of(values: Tensor, length: int) -> Tensor:
    """values [n] in 0..length-1 -> how often each occurs [length]; ``bincount`` makes a GPU's host wait."""
    return values.new_zeros(length).scatter_add_(0, values, torch.ones_like(values))
