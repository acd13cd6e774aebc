"""The index, and the selector that has it, where classes come or go, and where lists are loaded that are others'.

Lists are learnt once, from all rows. After that a class that comes gets its list and its code as any row that has
moved does, and a class that goes leaves both; all others keep theirs, and so do centroids and mean rows, which follow
with the upkeep of the next steps.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from annsoftmax_ref.host_numbers import number, set_number
from annsoftmax_ref.list_sizes import default_nlist, default_nprobe
from annsoftmax_ref.row_change import Commit, RowChange

LOOKED_AT = 1000  # rows a step, which costs next to nothing


class IndexChanges(nn.Module):
    """That part of ``IVFBinaryIndex``."""

    def __init__(self):
        super().__init__()
        self.register_load_state_dict_pre_hook(_mean_rows_of_earlier_versions)
        self.register_load_state_dict_post_hook(_drop_lists)

    @torch.no_grad()
    def changing(self, change: RowChange, rows: Tensor) -> Commit:
        """To be the index of the rows after a change, whose new ones are rows [n, d]."""
        ids = torch.arange(len(rows), device=rows.device)
        lists = self.assignment.new_zeros(len(rows))
        codes = self.codes.new_zeros(len(rows), self.codes.shape[1])
        if number(self.trained) and len(rows):
            lists = self.nearest_list(self._unit_rows(rows, ids))
            codes = self._encode_rows(rows, ids, lists)
        made = {
            "assignment": change.of(self.assignment, lists),
            "codes": change.of(self.codes, codes),
            "written": change.of(self.written, number(self.clock)),
        }
        layout = None if self._lists is None else self.lists.changed(change, made["assignment"], made["codes"])

        def commit() -> None:
            self.num_rows, self._lists = change.after, layout
            for name, buffer in made.items():
                setattr(self, name, buffer)

        return commit


class IndexedChanges(nn.Module):
    """That part of ``NearestClasses``."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._asked: dict[str, int | None] = {}  # what the user wants nlist, nprobe and refresh_steps to be
        self.register_load_state_dict_pre_hook(_lists_as_saved)

    def choose_sizes(self, num_classes: int, nlist: int | None = None) -> None:
        """nlist, nprobe and refresh_steps as they were asked for, else by the number of classes; nlist: lists that
        there are already, whatever their number would be now. ValueError if more are to be probed than there are."""
        if not self._asked:
            self._asked = {name: getattr(self, name) for name in ("nlist", "nprobe", "refresh_steps")}
        without_lists = self.flat and not self.far
        nlist = nlist or (1 if without_lists else self._asked["nlist"] or default_nlist(num_classes))
        nprobe = self._asked["nprobe"] or default_nprobe(nlist)
        if nprobe > nlist:
            raise ValueError(f"nprobe is {nprobe}; it should be at most nlist, {nlist}")
        self.nlist, self.nprobe = nlist, nprobe
        self.refresh_steps = self._asked["refresh_steps"] or _steps_of_a_pass(num_classes)

    def changing(self, change: RowChange, rows: Tensor) -> Commit:
        """As the base; the index goes on. ValueError for fewer classes than lists."""
        if change.after < self.nlist:
            raise ValueError(
                f"ids leaves {change.after} classes, fewer than the {self.nlist} lists that the selector has; there "
                "should be at least as many: make a new head for them"
            )
        index, cursor = self.index.changing(change, rows), change.place_of(number(self.cursor))

        def commit() -> None:
            index()
            self.num_classes = change.after
            if self._asked["refresh_steps"] is None:
                self.refresh_steps = _steps_of_a_pass(change.after)
            set_number(self.cursor, cursor)

        return commit


def _steps_of_a_pass(num_classes: int) -> int:
    """In which each row's list is looked at once. Fewer classes are gone through in 50."""
    return max(50, -(-num_classes // LOOKED_AT))


def _lists_as_saved(selector: IndexedChanges, saved: dict, prefix: str, *_) -> None:
    """A head that got more classes has as many lists as before, where one that is made with them would have more."""
    centroids = saved.get(f"{prefix}index.centroids")
    if centroids is None or selector.num_classes is None or selector._asked["nlist"]:
        return
    if len(centroids) <= selector.num_classes and len(centroids) != selector.nlist:
        selector.choose_sizes(selector.num_classes, len(centroids))
        selector.index = selector.new_index().to(selector.cursor.device)


def _mean_rows_of_earlier_versions(index: IndexChanges, saved: dict, prefix: str, *_) -> None:
    """A head that was saved before the index kept mean rows has centroids, which the next refreshes make into them."""
    if f"{prefix}centroids" in saved:
        saved.setdefault(f"{prefix}means", saved[f"{prefix}centroids"].clone())


def _drop_lists(index: IndexChanges, _) -> None:
    """Loading has replaced the assignment that the lists were made from."""
    index._lists, index.outdated = None, False
