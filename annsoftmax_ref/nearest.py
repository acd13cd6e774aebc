"""NearestClasses: the selector of ANN Softmax, and its options beyond the paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from annsoftmax_ref import backend
from annsoftmax_ref import rows as weight_rows
from annsoftmax_ref.active_sets import FarClasses
from annsoftmax_ref.beyond.far import far_classes
from annsoftmax_ref.beyond.flat import Flat
from annsoftmax_ref.beyond.mass_budget import MassBudget
from annsoftmax_ref.beyond.options import chosen_far, chosen_option
from annsoftmax_ref.beyond.priority import Priority
from annsoftmax_ref.beyond.tail import Tail
from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.following import follow
from annsoftmax_ref.global_order import in_global_order, most_here, places_by_need
from annsoftmax_ref.host_numbers import advance, is_recorded, number, told
from annsoftmax_ref.index import IVFBinaryIndex
from annsoftmax_ref.index_changes import LOOKED_AT, IndexedChanges
from annsoftmax_ref.row_log import RowLog
from annsoftmax_ref.row_parameter import row_state, unwatching
from annsoftmax_ref.selectors import Selector
from annsoftmax_ref.shards import Shards
from kernels_inline.flat_ops import flat_map


class NearestClasses(IndexedChanges, Selector):
    """ANN Softmax (Zhao et al., PVLDB 2021): the classes nearest to each sample, found by IVFBinaryIndex.

    From the paper: binary quantization with an inverted file, samples grouped. Ours: every number below, signs of the
    rows themselves as codes, re-ranking, an active set of its own for each group, and that the index follows the
    weights at every step (codes of moved rows before the next search; lists and centroids a slice of rows at a time).
    Derived in notebook 08, section "The loop".

    sample_rate, groups, grouping: see ``Selector``; by the rule there are so many groups that each sample of one has
    about 16 places, but none of less than 4 samples. With many classes that is one group, which is the fastest.
    nlist, nprobe: lists, and how many of them a sample probes. By default nlist follows from the number of classes (64
    of 5,204, 512 of a million: what costs least) and nprobe from nlist alone (2 sqrt(nlist), which holds recall); see
    ``list_sizes``. candidates: classes a sample may bring in.
    rerank: order candidates by exact cosine rather than Hamming distance.
    refresh_steps: every row's list is looked at once in so many steps (default: 50, and more above 50,000 classes).
    rotate, centre, asymmetric: see IVFBinaryIndex. None takes a default from the sizes.

    Beyond the paper, each in its file of ``annsoftmax_ref.beyond``, and all but ``far`` off unless asked for:
    tail: this share of the places goes to a uniform sample of the classes outside the search, weighted to stand for
    all of them. priority: a priority sample by estimated logits instead of the union of what is nearest. Either way
    the partition function is unbiased while positives leave a place; one excludes the other. ``priority`` takes twice
    the candidates, all re-ranked (else scores are of the codes: unbiased too, with a larger spread), and draws and
    scores 256 classes a step.
    flat: 1 or 2 to score the codes of all classes instead, with so many bits a number of the sample; then there are
    no inverted lists, candidates and re-ranking (for GPUs; slow on a CPU). 0: never. None: 1 on a GPU with the kernels
    for it, unless the search is asked for something (nlist, nprobe, candidates, rerank, centre, asymmetric, tail,
    priority).
    far: the classes left out count in the softmax, a list at a time: its mean row stands for them. None: yes, unless
    tail or priority, with which it does not go, or flat is asked for. Without it (False) a sample is scored against its
    active set alone, as the abstract of the paper has it.
    mass_target: the budget follows a share of the softmax's mass to be held, between ``sample_rate`` and 1, for 2 % of
    the products of a step of 256 samples.
    """

    def __init__(
        self,
        sample_rate: float = 0.1,
        groups: int | None = None,
        grouping: str = "similar",
        nlist: int | None = None,
        nprobe: int | None = None,
        candidates: int | None = None,
        rerank: bool = True,
        refresh_steps: int | None = None,
        rotate: bool = False,
        centre: bool = False,
        asymmetric: bool = False,
        flat: int | None = None,
        tail: float = 0.0,
        priority: bool = False,
        mass_target: float | None = None,
        far: bool | None = None,
    ):
        super().__init__(sample_rate, groups, grouping)
        for name, value in (
            ("nlist", nlist),
            ("nprobe", nprobe),
            ("candidates", candidates),
            ("refresh_steps", refresh_steps),
        ):
            if value is not None:
                check_positive_int(name, value)
        self.nlist, self.nprobe, self.candidates = nlist, nprobe, candidates
        self.rerank = rerank
        self.refresh_steps = refresh_steps
        self.rotate, self.centre, self.asymmetric = rotate, centre, asymmetric
        self.flat, self.tail, self.priority = flat, tail, priority
        self.option = chosen_option(flat or 0, tail, priority, centre, rerank)
        self.far = chosen_far(far, self.option)
        of_lists = nlist, nprobe, candidates, not rerank, centre, asymmetric
        self._flat_on_a_gpu = flat is None and self.option is None and not any(of_lists)
        self.budget = None if mass_target is None else MassBudget(self.sample_rate, mass_target)
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))  # first row of the next slice
        self._log: RowLog | None = None  # of the rows that have moved since the index last looked

    def split(self, shards: Shards) -> None:
        """As the base. What a cut goes by must compare between processes, and a budget be the same on all."""
        if self.budget is not None:
            raise ValueError(
                f"mass_target is {self.budget.target} with a process_group; every process would follow a budget of its "
                "own: leave it out"
            )
        if self.centre or (self.rotate and not self.rerank):
            option = "centre is True" if self.centre else "rotate is True with rerank=False"
            raise ValueError(
                f"{option} with a process_group; scores of different processes would not compare: leave it out"
            )
        super().split(shards)

    @property
    def present_rate(self) -> float:
        return self.sample_rate if self.budget is None else self.budget.present

    @property
    def plain_signs(self) -> bool:
        """Whether a row's code is just the signs of its numbers."""
        return not (self.rotate or self.centre)

    def bind(self, num_classes: int, embedding_size: int, scale: float = 1.0) -> None:
        super().bind(num_classes, embedding_size, scale)
        self.choose_sizes(num_classes)
        self._log = RowLog(wants_codes=self.plain_signs)
        self.index = self.new_index()

    def new_index(self) -> IVFBinaryIndex:
        sizes = self.num_classes, self.embedding_size, self.nlist
        return IVFBinaryIndex(*sizes, self.rotate, self.centre, self.asymmetric)

    @unwatching
    def prepare(self, weight: Tensor, generator: torch.Generator) -> None:
        row_state(weight).attach(self._log)
        self.index.has_slots = not isinstance(self._option(weight), Flat)
        if number(self.index.trained):
            follow(self.index, self._log, weight)
        if self.index.outdated or not number(self.index.trained):
            self.index.train_lists(weight, generator)
            self._log.clear()
        self._upkeep(weight)

    @unwatching
    def select(self, x, labels, weight, generator):
        # Which classes are near is not to depend on bfloat16 rounding.
        with torch.autocast(x.device.type, enabled=False):
            groups = self.groups_of(x, generator)
            option = self._option(weight)
            if option is None:
                found = self.search(groups, x, weight)
                active = self.union(groups, found, labels, generator, self.places_of(found, labels, groups))
            else:  # beyond the paper
                active = option.active_sets(self, groups, x, labels, weight, generator)
            return replace(active, far=self._far_classes(active.classes)) if self.far else active

    def _option(self, weight: Tensor) -> Flat | Tail | Priority | None:
        """What makes the active sets; None: the union of what is found in the lists."""
        by_default = self._flat_on_a_gpu and backend.shapes_are_fixed(weight)
        codes = self.index.codes if self.num_classes else weight.new_empty(0, dtype=torch.int64)
        return Flat(1) if by_default and backend.runs(flat_map, codes) else self.option

    def _far_classes(self, classes: Tensor) -> FarClasses:
        # A copy of the mean rows: the index moves on before a later backward pass asks for them.
        index, means = self.index, self.index.means.clone()
        return far_classes(classes, index.assignment, index.lists.sizes, means, self.scale)

    def search(self, groups: Tensor, x: Tensor, weight: Tensor, share: float = 1.0) -> Tensor:
        """x [B, d], groups [G, b] -> the classes [B, k] nearest to each sample, nearest first, -1 where there is none.

        share: of the active set's places, that the candidates of a group are to share. Where classes are split, a
        class's column is its rank among all processes' candidates.
        """
        largest = groups.shape[1]
        k, cut = self.candidates_per_sample(largest), self._must_cut(largest, share)
        # The order of candidates decides only which of them are cut: where all find room, it is not asked for.
        rerank = self.rerank and cut
        found, scores = self.index.search(x, weight, k, self.nprobe, rerank)
        if cut and self.shards is not None:
            scores = self.index.as_cosines(scores, rerank)
            return in_global_order(found, scores, most_here(self._candidates_of_all(largest), self.shards), self.shards)
        return found

    def places_of(self, found: Tensor, labels: Tensor, groups: Tensor, share: float = 1.0) -> int | None:
        """Of that share of an active set's places, how many are to be here, for candidates by ``search`` with the same
        groups and share; None where there is nothing to cut."""
        if self.shards is None or not self._must_cut(groups.shape[1], share):
            return None
        total = round(share * self.active_of_all)
        return places_by_need(found, labels, groups, self.num_classes, total, self.shards)

    def take_part(self, x: Tensor) -> None:
        largest, share, option = self._largest_group(len(x)), 1 - self.tail, self._option(x)
        if (option is None or isinstance(option, Tail)) and self._must_cut(largest, share):
            groups = x.new_empty(self.groups_for(len(x)), 0, dtype=torch.int64)
            table = in_global_order(
                x.new_empty(len(x), 0).long(),
                x[:, :0],
                most_here(self._candidates_of_all(largest), self.shards),
                self.shards,
            )
            places_by_need(table, groups[0], groups, 0, round(share * self.active_of_all), self.shards)

    def _must_cut(self, group_size: int, share: float) -> bool:
        """Whether a group may have more candidates than that share of its places; the same on all processes."""
        return self._candidates_of_all(group_size) * group_size > share * self.active_of_all

    def candidates_per_sample(self, group_size: int, times: int = 1) -> int:
        """The sample's share of the active set, and at least 64; ``times`` as many, where chance may leave some out.

        Where classes are split: of those, what may well be here, by the spread of a binomial distribution.
        """
        if self.shards is None:
            return self._candidates_of_all(group_size, times)
        return min(most_here(self._candidates_of_all(group_size, times), self.shards), self.num_classes)

    def _candidates_of_all(self, group_size: int, times: int = 1) -> int:
        total = self.num_classes if self.shards is None else self.shards.num_classes
        return min(self.candidates or times * max(64, self.active_of_all // group_size), total)

    def observe(self, x, active, weight, generator):
        if self.budget is not None:
            self.budget.observe(x, active, weight, self.scale, generator)

    @property
    def can_be_recorded(self) -> bool:
        return self.budget is None and (self.option is None or isinstance(self.option, Flat))

    def is_settled(self, weight: Tensor) -> bool:
        row_state(weight).look(weight)
        return not self._log and not self._makes_room(weight)

    def kept_tensors(self) -> list[Tensor]:
        return self.index.kept_tensors()

    def weight_replaced(self) -> None:
        self._log.everything = True

    @unwatching
    def sync(self, weight: Tensor) -> None:
        """Rewrite the codes of the rows that moved since the last call."""
        if self._log is None:  # no class is here
            return
        row_state(weight).attach(self._log)  # of a copy: its rows may have been written to since it was made
        follow(self.index, self._log, weight)

    def _upkeep(self, weight: Tensor) -> None:
        slice_size = -(-self.num_classes // self.refresh_steps)
        ids = self._rows(lambda: number(self.cursor), slice_size, weight)
        weight_rows.catch_up(weight, ids)
        self.index.refresh(weight, ids)
        if self.far and slice_size < LOOKED_AT:  # few classes move fast, and mean rows are to be no older than they
            first = lambda: number(self.cursor) // slice_size * LOOKED_AT  # noqa: E731
            self.index.refresh_means(weight, self._rows(first, LOOKED_AT, weight))
        advance(self.cursor, lambda first: first + slice_size if first + slice_size < self.num_classes else 0)
        if not is_recorded():
            self._makes_room(weight)

    def _makes_room(self, weight: Tensor) -> bool:
        """Once in a pass over all rows, on a GPU, whose lists do not grow by themselves. Whether it was needed."""
        at_its_end = backend.shapes_are_fixed(weight) and number(self.cursor) == 0
        return at_its_end and self.index.lists.make_room()

    def _rows(self, first: Callable[[], int], count: int, weight: Tensor) -> Tensor:
        """``count`` rows from ``first`` on, which may be beyond the last row; up to the last row, or the last ones."""
        total = self.num_classes
        if not backend.shapes_are_fixed(weight):
            return torch.arange(first() % total, min(total, first() % total + count), device=weight.device)
        count = min(count, total)
        start = told(lambda: min(first() % total, total - count), weight.device)
        return start + torch.arange(count, device=weight.device)

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, nlist={self.nlist}, nprobe={self.nprobe}, rerank={self.rerank}, "
            f"tail={self.tail:g}, priority={self.priority}, flat={self.flat}"
        )
