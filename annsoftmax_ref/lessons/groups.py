"""Notebook 06: one active set for a batch, or several, at the same number of logits; measured and drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn.utils.rnn import pad_sequence

from annsoftmax_ref import reference as ref
from annsoftmax_ref.active_sets import active_count, union_active
from annsoftmax_ref.experiments.figures import BLUE, ORANGE, new_figure
from annsoftmax_ref.grouping import members, random_groups, similar_groups
from annsoftmax_ref.lessons.exercises import Exercise
from annsoftmax_ref.lessons.pictures import SIZE, tiled
from annsoftmax_ref.lessons.trained import Trained

GROUPS = (1, 2, 4, 8, 16, 32)
KINDS = ("random", "similar")
NEAR = 50  # of a sample's nearest other classes it is asked how many were recalled
STYLES = {"random": (ORANGE, "s", "--"), "similar": (BLUE, "^", "-")}


@dataclass(frozen=True)
class Measured:
    """recalled: of a sample's 50 nearest other classes, how many are in its active set; the batch's mean.
    mass: of the softmax mass on other classes, the share in its set. error: of the gradient of the embeddings,
    |g - g_full| / |g_full|. rows: distinct classes scored in the batch, which are so many rows to update."""

    recalled: float
    mass: float
    error: float
    rows: int


@dataclass(frozen=True)
class Batch:
    """x [B, d], prototypes [N, d], rows of length 1; labels [B]; images [B, 32, 32]; active: A, the classes a group
    is scored against. The objective is CosFace with the margin of the default recipe."""

    x: np.ndarray
    prototypes: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    active: int
    scale: float = 20.0
    known: dict = field(default_factory=dict, compare=False)

    @cached_property
    def others(self) -> np.ndarray:
        """Cosines [B, N]; -inf in the place of the sample's own class."""
        cosine = self.x @ self.prototypes.T
        cosine[np.arange(len(cosine)), self.labels] = -np.inf
        return cosine

    @cached_property
    def nearest(self) -> np.ndarray:
        """The A nearest other classes of each sample, nearest first [B, A]: what it would bring in if it could."""
        return np.argsort(-self.others, axis=1, kind="stable")[:, : self.active]

    @cached_property
    def shares(self) -> np.ndarray:
        """Softmax shares of the other classes [B, N]; each row adds up to 1."""
        logits = self.scale * self.others
        return np.exp(logits - ref.log_sum_exp(logits)[:, None])

    @cached_property
    def full_gradient(self) -> np.ndarray:
        """Gradient of the full softmax with respect to the embeddings [B, d]."""
        return ref.full_loss(self.x, self.prototypes, self.labels, self.objective)[1]

    @property
    def objective(self):
        return ref.make_objective("cosface", scale=self.scale, margin=0.1)


def real_batch(trained: Trained, images, size: int = 256, rate: float = 0.1) -> Batch:
    """The first ``size`` samples of the batch in ``trained``; images [n, 32, 32]: all training drawings."""
    chosen = np.asarray(images[torch.from_numpy(trained.batch_index[:size]).long()])
    prototypes = trained.prototypes.astype(np.float64)
    labels = trained.batch_labels[:size].astype(np.int64)
    active = active_count(len(prototypes), rate)
    return Batch(trained.batch[:size].astype(np.float64), prototypes, labels, chosen, active, trained.scale)


def make_groups(batch: Batch, num_groups: int, kind: str, seed: int = 0) -> list[np.ndarray]:
    """The batch in ``num_groups`` groups of positions. kind: "random" or "similar". ValueError for another."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it should be one of {', '.join(KINDS)}")
    if kind == "similar":
        groups = similar_groups(torch.from_numpy(batch.x), num_groups)
    else:
        groups = random_groups(len(batch.x), num_groups, torch.Generator().manual_seed(seed))
    return [group.numpy() for group in members(groups, len(batch.x))]


def active_sets(batch: Batch, groups: list[np.ndarray]) -> list[np.ndarray]:
    """For each group its A active classes, ascending, of its samples' exactly nearest ones."""
    candidates, labels = torch.from_numpy(batch.nearest), torch.from_numpy(batch.labels)
    samples = pad_sequence([torch.from_numpy(group) for group in groups], batch_first=True, padding_value=-1)
    nobody = samples.new_empty(len(samples), 0)  # every sample brings A classes: there is nothing to fill up
    return list(union_active(candidates, labels, samples, nobody, batch.active, len(batch.prototypes))[0].numpy())


def measure(batch: Batch, num_groups: int, kind: str, seed: int = 0) -> Measured:
    """What the batch's active sets hold; computed once for each argument."""
    key = (num_groups, kind, seed)
    if key not in batch.known:
        groups = make_groups(batch, num_groups, kind, seed)
        actives = active_sets(batch, groups)
        inside = np.zeros(batch.others.shape, dtype=bool)
        for group, active in zip(groups, actives, strict=True):
            inside[np.ix_(group, active)] = True
        gradient = ref.grouped_loss(batch.x, batch.prototypes, batch.labels, groups, actives, batch.objective)[1]
        batch.known[key] = Measured(
            recalled=float(np.take_along_axis(inside, batch.nearest[:, :NEAR], axis=1).sum(axis=1).mean()),
            mass=float((batch.shares * inside).sum(axis=1).mean()),
            error=float(np.linalg.norm(gradient - batch.full_gradient) / np.linalg.norm(batch.full_gradient)),
            rows=int(inside.any(axis=0).sum()),
        )
    return batch.known[key]


def draw_curves(batch: Batch, mark: tuple[int, str] | None = None) -> Figure:
    """Recalled classes, captured mass and gradient error against the number of groups; ``mark`` is made large."""
    figure, panels = new_figure(10, 3.4, columns=3, dpi=72, layout=None)
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.17, top=0.96, wspace=0.28)
    _curves(panels, batch, mark)
    return figure


def draw_groups(batch: Batch, groups: int = 8, kind: str = "similar") -> Figure:
    """Recalled classes and mass against the number of groups, this one marked, and the drawings of one group."""
    figure, (*panels, drawings) = new_figure(10, 3.8, columns=3, dpi=72, layout=None)
    figure.subplots_adjust(left=0.06, right=0.99, bottom=0.16, top=0.9, wspace=0.25)
    _curves(panels, batch, (groups, kind))
    members = make_groups(batch, groups, kind)[0]
    drawings.imshow(255 - tiled(batch.images[members[:64]], 8, 8), cmap="gray", vmin=0, vmax=255)
    drawings.set_title(f"{min(64, len(members))} of the {len(members)} samples of group 1", fontsize=SIZE)
    drawings.set_axis_off()
    return figure


def _curves(panels, batch: Batch, mark: tuple[int, str] | None) -> None:
    for kind in KINDS:
        colour, marker, line = STYLES[kind]
        row = [measure(batch, groups, kind) for groups in GROUPS]
        series = (
            (f"of the {NEAR} nearest classes, recalled", [m.recalled for m in row]),
            ("softmax mass captured, %", [100 * m.mass for m in row]),
            ("error of the gradient, %", [100 * m.error for m in row]),
        )
        for axes, (title, values) in zip(panels, series, strict=False):
            axes.plot(GROUPS, values, color=colour, marker=marker, linestyle=line, label=f"{kind} groups")
            if mark is not None and mark[1] == kind and mark[0] in GROUPS:
                axes.plot(mark[0], values[GROUPS.index(mark[0])], color=colour, marker=marker, markersize=13)
            axes.set(xscale="log", xlabel="groups", ylabel=title)
            axes.set_xticks(GROUPS, [str(groups) for groups in GROUPS])
            axes.minorticks_off()
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.tick_params(labelsize=SIZE - 1)
            axes.xaxis.label.set_size(SIZE)
            axes.yaxis.label.set_size(SIZE)
    panels[0].legend(fontsize=SIZE - 1)


# ------------------------------------------------------------------------------------------ exercises


def own_places(active, batch, groups):
    """Places beside the labels, for each sample: (A - b) / b with b = B / G samples of different classes."""
    members = batch / groups
    return (active - members) / members


def cut_by_rank(candidates, active):
    """The ``active`` classes with the best column, ties to the lower id, ascending."""
    best = {}
    for rank in range(candidates.shape[1]):
        for c in candidates[:, rank]:
            best.setdefault(int(c), rank)
    return np.array(sorted(sorted(best, key=lambda c: (best[c], c))[:active]))


def far_offset(mean, left, scale):
    """What is added to the logit of a list whose mean row [d] stands for ``left`` classes; -inf if it has none left."""
    if left == 0:
        return -np.inf
    return np.log(left) + scale**2 * (1 - mean @ mean) / (2 * len(mean))


NEIGHBOURS = np.array([[3, 7, 1, 9], [7, 2, 8, 4], [5, 6, 7, 0]])
EXERCISES = {
    "own_places": Exercise(
        own_places,
        [(520, 256, 1), (520, 256, 8), (100, 64, 64)],
        hint="a group has B / G samples, and each of them puts its label into the set first",
    ),
    "cut_by_rank": Exercise(
        cut_by_rank,
        [(NEIGHBOURS, 3), (NEIGHBOURS, 5), (NEIGHBOURS[:1], 2), (NEIGHBOURS[::-1], 4)],
        hint="the rank of a class is the best position that it has with any sample, in whatever order they stand",
    ),
    "far_offset": Exercise(
        far_offset,
        [(np.array([0.6, 0.0]), 5, 20.0), (np.array([1.0, 0.0, 0.0]), 1, 20.0), (np.array([0.3, 0.4]), 0, 8.0)],
        hint="take the logarithm of the formula without the part s m x; nobody left counts e^(-inf) = 0",
    ),
}
