"""LogQClasses: sampled softmax with the log-q correction, classes drawn by how often they have been labels."""

from __future__ import annotations

import numbers

import torch
from torch import Tensor

from annsoftmax_ref.active_sets import ActiveSets
from annsoftmax_ref.row_change import Commit, RowChange
from annsoftmax_ref.selectors import Selector


class LogQClasses(Selector):
    """The batch's own classes and others drawn by their frequency; a drawn class counts for 1 / q, q its chance to be.

    Sampled softmax with importance weights: Bengio and Senecal (IEEE TNN 2008), Jean et al. (ACL 2015, section 3.1),
    and the correction of logits by -log q that recommenders use (Yi et al., RecSys 2019), which here, too, learn the
    frequencies from the labels that go by. Ours: every class is drawn once at most, by priority sampling (Duffield,
    Lund and Thorup, J. ACM 2007), so that q is min(1, score / threshold) and the partition function is unbiased while
    the labels leave a place (Bengio's and Jean's ratio of estimates, and Yi's, are not); the batch's own classes are
    in for certain, at q = 1.

    sample_rate, groups, grouping: see ``Selector``; one group is theirs, and each group has a draw of its own.
    power: a class seen c times has the score (c + 1)^power. 1: its frequency; 0: all alike, uniform with log-q.
    A step draws a number for every class, and 8 bytes a class are kept.
    """

    def __init__(self, sample_rate: float = 0.1, power: float = 1.0, groups: int | None = 1, grouping: str = "similar"):
        super().__init__(sample_rate, groups, grouping)
        if isinstance(power, bool) or not isinstance(power, numbers.Real):
            raise TypeError(f"power is {power!r}; it should be a number from 0 to 1")
        if not 0 <= power <= 1:
            raise ValueError(f"power is {power}; it should be from 0 to 1")
        self.power = float(power)

    def bind(self, num_classes: int, embedding_size: int, scale: float = 1.0) -> None:
        super().bind(num_classes, embedding_size, scale)
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.int64))  # as labels, in training

    def split(self, shards) -> None:
        """As the base; on one process only."""
        if shards.ranks > 1:
            raise ValueError(
                "selector is LogQClasses with a process_group of several processes; it counts the labels of one: take "
                "RandomClasses or NearestClasses"
            )
        super().split(shards)

    def select(self, x, labels, weight, generator):
        samples = self.groups_of(x, generator)  # [G, b]
        there = samples >= 0
        own = labels[torch.where(there, samples, samples[:, :1])]  # [G, b]; in a free place, the first sample's
        scores = self.power * (self.seen + 1.0).double().log()
        scores = scores.expand(len(samples), -1).scatter(1, own, torch.inf)
        uniforms = 1 - torch.rand(scores.shape, generator=generator, dtype=torch.float64)  # in (0, 1]
        classes, log_weights = draw_by_priority(scores, uniforms.to(scores.device), self.active_classes)
        targets = torch.where(there, torch.searchsorted(classes, own), -1)
        return ActiveSets(samples, classes, targets, log_weights.to(x.dtype))

    def observe(self, x: Tensor, active: ActiveSets, weight: Tensor, generator: torch.Generator) -> None:
        labels = active.classes.gather(1, active.targets.clamp_min(0))
        self.seen.scatter_add_(0, labels.flatten(), (active.targets >= 0).flatten().long())

    def changing(self, change: RowChange, rows: Tensor) -> Commit:
        """As the base; how often the others have been seen stays known."""
        bind_anew, seen = super().changing(change, rows), change.of(self.seen)

        def commit() -> None:
            bind_anew()
            self.seen = seen

        return commit

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, power={self.power:g}"


def draw_by_priority(log_scores: Tensor, uniforms: Tensor, places: int) -> tuple[Tensor, Tensor]:
    """log_scores [G, N], inf for what is in for certain, uniforms [G, N] in (0, 1] -> the classes of the ``places``
    largest of the priorities score / u [G, A], ascending, and minus the logarithm of each one's chance [G, A].

    ``beyond.priority.priority_keep`` for all groups at once, in shapes that do not depend on the numbers.
    """
    count = log_scores.shape[1]
    best = (log_scores - uniforms.log()).topk(min(places + 1, count), dim=1)
    classes = best.indices[:, :places].sort(dim=1).values
    if places >= count:  # all are in
        return classes, torch.zeros_like(log_scores)
    return classes, (best.values[:, places:] - log_scores.gather(1, classes)).clamp_min(0)
