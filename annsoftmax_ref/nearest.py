"""NearestClasses: the selector of ANN Softmax, and its options beyond the paper."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from annsoftmax_ref import rows as weight_rows
from annsoftmax_ref.active_sets import ActiveSet, active_count
from annsoftmax_ref.beyond.estimators import draw_distinct, priority_active, tail_active
from annsoftmax_ref.beyond.flat import flat_active
from annsoftmax_ref.beyond.mass_budget import MassBudget, captured_mass, scaled_cosines
from annsoftmax_ref.checks import check_positive_int, check_rate
from annsoftmax_ref.grouping import random_groups, similarity_groups
from annsoftmax_ref.index import IVFBinaryIndex
from annsoftmax_ref.selectors import Selector

OWN_CLASSES = 16  # for each sample of a group, about: what the table "groups" says is best, and the table "rates"
PILOT = 256  # classes drawn a step, to know what score those have that no sample found


def default_nlist(num_classes: int) -> int:
    """About sqrt(N), a power of two: a common start, not the optimum, which depends on nprobe.

    The rows that a query looks at, nlist + nprobe N / nlist, are fewest with sqrt(nprobe N) lists (notebook 05, "Count
    the cost"). At a million classes, with the 64 probes that come with this default, those are 8,000 lists and 16,000
    rows looked at; with 1,024 lists they are 1,024 centroids and 62,500 codes.
    """
    return min(num_classes, 2 ** round(math.log2(math.sqrt(num_classes))))


class NearestClasses(Selector):
    """ANN Softmax (Zhao et al., PVLDB 2021): the classes nearest to each sample, found by IVFBinaryIndex.

    From the paper: binary quantization with an inverted file, samples grouped. Ours: every number below, signs of the
    rows themselves as codes, re-ranking, an active set of its own for each group, and that the index follows the
    weights at every step (codes of moved rows before the next search; lists and centroids a slice of rows at a time).
    Derived in notebook 08, section "The loop".

    sample_rate: A / N, for each group. groups: active sets per batch; None: so many that there are about 16 places for
    each sample of a group, but no group of less than 4. With many classes that is one group, which is the fastest.
    grouping: "random" or "similar".
    nlist, nprobe: lists, and how many of them a sample probes. candidates: classes a sample may bring in.
    rerank: order candidates by exact cosine rather than Hamming distance.
    flat: 1 or 2 to score the codes of all classes instead, with so many bits a number of the sample; then there are
    no lists, candidates and re-ranking (``annsoftmax_ref.beyond.flat``: for GPUs; slow on a CPU).
    refresh_steps: every row's list is looked at once in so many steps (default: 50, and more above 50,000 classes).
    rotate, centre, asymmetric: see IVFBinaryIndex. None takes a default from the sizes.

    Beyond the paper, which scores the chosen classes alone (``beyond/estimators.py``; all off unless asked for):
    tail: this share of the places goes to a uniform sample of the classes outside the search, weighted to stand for
    all of them. priority: a priority sample by estimated logits instead of the union of what is nearest. Either way
    the partition function is unbiased while positives leave a place; one excludes the other. ``priority`` takes twice
    the candidates, all re-ranked (else scores are of the codes: unbiased too, with a larger spread), and draws and
    scores PILOT classes a step: 2 B PILOT d operations.
    mass_target: the budget follows a share of the softmax's mass to be held, between ``sample_rate`` and 1
    (``annsoftmax_ref.beyond.mass_budget`` has the rule and the cost, 2 % of the products of a step of 256 samples).
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
        flat: int = 0,
        tail: float = 0.0,
        priority: bool = False,
        mass_target: float | None = None,
    ):
        super().__init__()
        self.sample_rate = check_rate(sample_rate)
        self.groups = groups
        if grouping not in ("random", "similar"):
            raise ValueError(f"grouping is {grouping!r}; it should be 'random' or 'similar'")
        self.grouping = grouping
        for name, value in (
            ("groups", groups),
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
        if flat not in (0, 1, 2) or isinstance(flat, bool):
            raise ValueError(f"flat is {flat!r}; it should be 0, 1 or 2")
        if flat and (centre or tail or priority):
            raise ValueError(f"flat is {flat} with centre, tail or priority; it goes with none of them")
        self.flat = flat
        self.tail, self.priority = check_share("tail", tail), priority
        if not isinstance(priority, bool):
            raise TypeError(f"priority is {priority!r}; it should be True or False")
        if tail and priority:
            raise ValueError(f"tail is {tail} and priority is True; each corrects for the classes left out: choose one")
        if priority and centre and not rerank:
            raise ValueError("centre is True with rerank=False; priority needs scores of which all compare: set rerank")
        self.budget = None if mass_target is None else MassBudget(self.sample_rate, check_mass_target(mass_target))
        self._mass: float | None = None  # measured by select, taken in by rows_moved
        self.register_buffer("cursor", torch.zeros((), dtype=torch.int64))  # first row of the next slice
        self._moved: list[Tensor] = []

    @property
    def active_classes(self) -> int:
        # The budget's rate is a float32, which may lie a little below the rate that it starts from.
        rate = self.sample_rate if self.budget is None else max(self.sample_rate, float(self.budget.rate))
        return active_count(self.num_classes, rate)

    def groups_for(self, batch: int) -> int:
        if self.groups is not None:
            return self.groups
        wanted = 2 ** round(math.log2(OWN_CLASSES * batch / self.active_classes))
        return max(1, min(int(wanted), batch // 4))

    @property
    def plain_signs(self) -> bool:
        """Whether a row's code is just the signs of its numbers."""
        return not (self.rotate or self.centre)

    def bind(self, num_classes: int, embedding_size: int, scale: float = 1.0) -> None:
        super().bind(num_classes, embedding_size, scale)
        self.nlist = 1 if self.flat else self.nlist or default_nlist(num_classes)
        self.nprobe = self.nprobe or min(self.nlist, math.ceil(2 * math.sqrt(self.nlist)))  # 16 of 64, 64 of 1,024
        # Looking at 1,000 rows a step costs next to nothing; fewer classes are gone through in 50 steps.
        self.refresh_steps = self.refresh_steps or max(50, -(-num_classes // 1000))
        if self.nprobe > self.nlist:
            raise ValueError(f"nprobe is {self.nprobe}; it should be at most nlist, {self.nlist}")
        self.index = IVFBinaryIndex(num_classes, embedding_size, self.nlist, self.rotate, self.centre, self.asymmetric)

    def prepare(self, weight: Tensor, generator: torch.Generator) -> None:
        weight.wants_codes = self.plain_signs
        if not self.index.trained:
            self.index.train_lists(weight, generator)
            self._moved.clear()
        self.sync(weight)
        self._upkeep(weight)

    def select(self, x, labels, weight, generator):
        if self.grouping == "random":
            groups = [g.to(labels.device) for g in random_groups(len(labels), self.groups_for(len(labels)), generator)]
        else:
            groups = similarity_groups(x, self.groups_for(len(x)))
        if self.flat:
            active = self._flat_sets(groups, x, labels, generator)
        else:
            active = self._searched_sets(groups, x, labels, weight, generator)
        self._mass = None if self.budget is None else self._captured_mass(active, x, weight, generator)
        return active

    def _flat_sets(self, groups, x, labels, generator) -> list[ActiveSet]:
        turned = x @ self.index.rotation.to(x.dtype) if self.rotate else x
        return flat_active(turned, groups, labels, self.index.codes, self.active_classes, self.flat, generator)

    def _searched_sets(self, groups, x, labels, weight, generator) -> list[ActiveSet]:
        k = self.candidates_per_sample(max(len(g) for g in groups))
        # The order of candidates decides only which of them are cut: where all find room, it is not asked for.
        cut = k * max(len(g) for g in groups) > (1 - self.tail) * self.active_classes
        found, scores = self.index.search(x, weight, k, self.nprobe, self.rerank and (cut or self.priority))
        if self.priority:
            return self._priority_sets(groups, x, found, self._logits(scores), labels, weight, generator)
        if self.tail:
            return [self._tail_set(samples, x, found, labels, generator) for samples in groups]
        return [self._union(samples, found[samples], labels, generator) for samples in groups]

    def _tail_set(self, samples, x, found, labels, generator) -> ActiveSet:
        classes, targets, log_weights = tail_active(
            found[samples], labels[samples], self.active_classes, self.tail, self.num_classes, generator
        )
        return ActiveSet(samples, classes, targets, log_weights.to(x.dtype))

    def _priority_sets(self, groups, x, found, logits, labels, weight, generator) -> list[ActiveSet]:
        """found [B, k], logits [B, k] -> an active set for each group, by priorities of their own."""
        pilot = draw_distinct(self.num_classes, min(PILOT, self.num_classes), generator).to(x.device)
        pilot_logits = scaled_cosines(x, weight, pilot, self.scale)  # [B, p]
        active = []
        for samples in groups:
            classes, targets, log_weights = priority_active(
                found[samples],
                logits[samples],
                labels[samples],
                pilot,
                pilot_logits[samples],
                self.active_classes,
                self.num_classes,
                generator,
            )
            active.append(ActiveSet(samples, classes, targets, log_weights.to(x.dtype)))
        return active

    def _logits(self, scores: Tensor) -> Tensor:
        """The index's scores as estimates of scale * cosine: exact if re-ranked."""
        if self.rerank:
            return self.scale * scores
        if self.asymmetric:
            # <q, signs of w> is z <w, signs of w> on average, the sum of |w_i| about sqrt(2 d / pi) for |w| = 1.
            return self.scale * (scores / math.sqrt(2 * self.embedding_size / math.pi)).clamp(-1, 1)
        return self.scale * (-scores * (math.pi / self.embedding_size)).cos()  # signs differ in angle / pi of the bits

    def _captured_mass(self, active, x, weight, generator) -> float:
        """Of one group, a different one each step."""
        group = active[int(torch.randint(len(active), (), generator=generator))]
        return captured_mass(x[group.samples], group.targets, weight, group.classes, self.scale, generator)

    def candidates_per_sample(self, group_size: int) -> int:
        """The sample's share of the active set, and at least 64; twice that to draw a priority sample from."""
        share = max(64, self.active_classes // group_size)
        return min(self.candidates or (2 * share if self.priority else share), self.num_classes)

    def rows_moved(self, ids: Tensor) -> None:
        self._moved.append(ids)
        # Here and not in select, which changes nothing: only a step that trains moves the budget.
        if self._mass is not None:
            self.budget.follow(self._mass)
            self._mass = None

    def sync(self, weight: Tensor) -> None:
        """Rewrite the codes of the rows that moved since the last call."""
        if not self._moved:
            return
        self.index.clock += 1
        ids = self._moved[0] if len(self._moved) == 1 else torch.cat(self._moved).unique()
        self._moved.clear()
        # The optimizer's kernel makes the sign codes of the rows that it moves on the way.
        made_for, codes, version = getattr(weight, "row_codes", None) or (None, None, None)
        if self.plain_signs and version == weight._version and torch.equal(made_for, ids):
            self.index.write_codes(ids, codes)
        else:
            self.index.update_rows(weight, ids)

    def _upkeep(self, weight: Tensor) -> None:
        first = int(self.cursor)
        last = min(self.num_classes, first + -(-self.num_classes // self.refresh_steps))
        ids = torch.arange(first, last, device=weight.device)
        weight_rows.catch_up(weight, ids)
        self.index.refresh(weight, ids)
        self.cursor.fill_(last % self.num_classes)

    def extra_repr(self) -> str:
        return (
            f"sample_rate={self.sample_rate:g}, groups={self.groups}, grouping={self.grouping}, "
            f"nlist={self.nlist}, nprobe={self.nprobe}, rerank={self.rerank}, tail={self.tail:g}, "
            f"priority={self.priority}, flat={self.flat}"
        )


def check_share(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is {value!r}; it should be a number from 0 to below 1")
    if not 0 <= value < 1:
        raise ValueError(f"{name} is {value}; it should be from 0 to below 1")
    return float(value)


def check_mass_target(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"mass_target is {value!r}; it should be a number above 0 and below 1, or None")
    if not 0 < value < 1:
        raise ValueError(f"mass_target is {value}; it should be above 0 and below 1, or None")
    return float(value)
