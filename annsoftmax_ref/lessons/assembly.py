"""The whole method on one batch: which classes a sample is scored against, and the exercises of notebook 08."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from annsoftmax_ref import IVFBinaryIndex, NearestClasses
from annsoftmax_ref.active_sets import ActiveSets
from annsoftmax_ref.datasets import load_glyphs
from annsoftmax_ref.lessons import pictures
from annsoftmax_ref.lessons.exercises import Exercise
from annsoftmax_ref.lessons.trained import load_trained

BATCH, NLIST = 64, 64
ACROSS = 8  # neighbours in a row of the picture, which has two


@dataclass(frozen=True)
class Scene:
    """A batch and the classes around it: x [64, 128] rows of length 1, labels [64], weight [N, 128], drawings."""

    x: Tensor
    labels: Tensor
    weight: Tensor
    index: IVFBinaryIndex
    images: Tensor  # [64, 32, 32]
    drawing_of: object


@lru_cache(maxsize=1)
def scene() -> Scene:
    """The first 64 drawings of the trained head's batch, and an index over its prototypes, made once."""
    trained, data = load_trained(), load_glyphs(progress=False)
    weight = torch.from_numpy(trained.prototypes)
    index = IVFBinaryIndex(*weight.shape, NLIST)
    index.train_lists(weight, torch.Generator().manual_seed(0))
    return Scene(
        torch.from_numpy(trained.batch[:BATCH]),
        torch.from_numpy(trained.batch_labels[:BATCH].astype(np.int64)),
        weight,
        index,
        data.train.images[torch.from_numpy(trained.batch_index[:BATCH].astype(np.int64))],
        data.drawing_of,
    )


def active_sets(rate: float, groups: int, nprobe: int) -> ActiveSets:
    """What ``NearestClasses`` chooses for the batch of ``scene``. Raises ValueError if its classes find no room."""
    here = scene()
    selector = NearestClasses(rate, groups=groups, nlist=NLIST, nprobe=nprobe)
    selector.bind(*here.weight.shape, scale=20.0)
    selector.index = here.index
    selector.check_budget(here.labels)
    return selector.select(here.x, here.labels, here.weight, torch.Generator().manual_seed(0))


@lru_cache(maxsize=BATCH)  # each redraw looks at the whole batch
def neighbours(sample: int) -> tuple[list[int], list[float]]:
    """The 16 classes nearest to a sample, its own left out, exactly: ids and cosines, nearest first."""
    if not 0 <= sample < BATCH:
        raise ValueError(f"sample is {sample}; it should be from 0 to {BATCH - 1}")
    here = scene()
    cosine = here.weight @ here.x[sample]
    cosine[here.labels[sample]] = -torch.inf
    best = cosine.topk(2 * ACROSS)
    return best.indices.tolist(), best.values.tolist()


def inside(sample: int, classes: list[int], active: ActiveSets) -> list[bool]:
    """For each class: is the sample scored against it?"""
    (mine,) = (group for group in active if sample in group.samples)
    members = set(mine.classes.tolist())
    return [c in members for c in classes]


def draw(sample: int = 43, rate: float = 0.02, groups: int = 8, nprobe: int = 16) -> Figure:
    """A sample's 16 nearest classes: those that it is scored against and those missed; above, the mean of the batch."""
    classes, cosines = neighbours(sample)
    here, active = scene(), active_sets(rate, groups, nprobe)
    found = inside(sample, classes, active)
    mean = np.mean([sum(inside(one, neighbours(one)[0], active)) for one in range(BATCH)])
    drawings = np.stack([np.asarray(here.drawing_of(c)) for c in classes])
    marks = ["in" if one else "out" for one in found]
    halves = [slice(0, ACROSS), slice(ACROSS, 2 * ACROSS)]
    figure = pictures.nearest_rows(
        np.stack([np.asarray(here.images[sample])] * 2),
        np.stack([drawings[half] for half in halves]),
        captions=[[f"{value:.2f}" for value in cosines[half]] for half in halves],
        frames=[marks[half] for half in halves],
        query_names=[
            f"{name}: {sum(found[half])} in" for name, half in zip(("1 to 8", "9 to 16"), halves, strict=True)
        ],
    )
    title = f"{rate:.0%} of the classes, {groups} groups, {nprobe} of {NLIST} lists: on average {mean:.1f} of 16 are in"
    figure.axes[0].set_title(title, fontsize=pictures.SIZE, pad=14)
    return figure


# --- exercises ---------------------------------------------------------------------------------


def batch_loss(losses: np.ndarray, sizes: np.ndarray) -> float:
    """The mean over samples, of groups' mean losses [G] and sizes [G]; an empty group's loss is not a number."""
    there = sizes > 0
    return float((losses[there] * sizes[there]).sum() / sizes.sum())


def captured_mass(logits: np.ndarray, own: int, active: np.ndarray) -> float:
    shares = np.exp(logits - logits.max())
    shares[own] = 0
    return float(shares[active].sum() / shares.sum())


def rows_to_encode(sets: tuple, swept: int, codes: np.ndarray, new_codes: np.ndarray) -> np.ndarray:
    """Rows whose stored code is wrong after a step that moved those of the sets and the one swept, ascending."""
    moved = np.unique(np.append(np.concatenate(sets), swept))
    return moved[codes[moved] != new_codes[moved]]


EXERCISES = {
    "batch_loss": Exercise(
        batch_loss,
        [
            (np.array([2.0, 4.0]), np.array([16, 16])),
            (np.array([2.0, 4.0]), np.array([3, 1])),
            (np.array([1.0, np.nan, 3.0]), np.array([2, 0, 2])),
        ],
        hint="a group of b samples counts b / B; 0 times not-a-number is not a number",
    ),
    "captured_mass": Exercise(
        captured_mass,
        [
            (np.array([5.0, 1.0, 0.0, 1.0]), 0, np.array([0, 1])),
            (np.array([0.0, 1000.0, 999.0]), 0, np.array([0, 2])),
            (np.zeros(6), 5, np.array([0, 3, 5])),
        ],
        hint="take the largest logit away before exp; the own class has no part, active or not",
    ),
    "rows_to_encode": Exercise(
        rows_to_encode,
        [
            ((np.array([0, 2]), np.array([2, 3])), 1, np.array([5, 5, 5, 5, 5]), np.array([4, 4, 4, 4, 4])),
            ((np.array([3, 4]),), 3, np.array([5, 6, 7, 8, 9]), np.array([1, 6, 7, 8, 2])),
        ],
        hint="only rows that moved can have a wrong code, and many of these have the code that they had",
    ),
}
