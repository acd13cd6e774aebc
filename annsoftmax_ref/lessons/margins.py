"""Notebook 07: what a margin does to a logit, to the pull on a sample, and to the boundaries on the circle."""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from annsoftmax_ref.experiments.figures import BLACK, BLUE, GREEN, ORANGE, RED, SKY, new_figure
from annsoftmax_ref.lessons.exercises import Exercise
from annsoftmax_ref.lessons.pictures import SERIES, SIZE
from annsoftmax_ref.objectives import (
    ArcFace,
    CombinedMargin,
    CosFace,
    CrossEntropy,
    DSoftmax,
    InsightFaceArcFace,
    Objective,
)

# From one scale and one margin to an objective. The combined margin halves it; D-Softmax's end point is 1 - margin.
CHOICES = {
    "no margin": lambda scale, margin: CrossEntropy(scale),
    "CosFace": CosFace,
    "ArcFace": ArcFace,
    "ArcFace, insightface": InsightFaceArcFace,
    "combined": lambda scale, margin: CombinedMargin(scale, 1.0, margin / 2, margin / 2),
    "D-Softmax": lambda scale, margin: DSoftmax(scale, 1 - margin),
}
WITH_A_LOGIT = [name for name in CHOICES if name != "D-Softmax"]  # whose margin is a change of the own class's logit
DEGREES = np.arange(1, 180)


def make(choice: str, scale: float, margin: float) -> Objective:
    """The objective of that name in ``CHOICES``. ValueError for a name or a number that does not exist."""
    if choice not in CHOICES:
        raise ValueError(f"choice is {choice!r}; it should be one of {', '.join(CHOICES)}")
    return CHOICES[choice](float(scale), float(margin))


def own_logit(objective: Objective, degrees) -> tuple[np.ndarray, np.ndarray]:
    """The own class's logit at angles degrees [n], and its slope by the cosine as autograd gives it; both [n]."""
    cosine = _cosine(degrees).requires_grad_()
    logit = objective.scale * objective.target_cosine(cosine)
    (slope,) = torch.autograd.grad(logit.sum(), cosine)
    return logit.detach().numpy(), slope.numpy()


def pull(objective: Objective, degrees, rival: float) -> np.ndarray:
    """d loss / d theta [n] of samples at angles degrees [n] from their class, one other class at ``rival`` degrees.

    Above zero the sample is pulled to its class. The other class stays where it is.
    """
    theta = torch.as_tensor(np.radians(degrees), dtype=torch.float64).requires_grad_()
    other = torch.full_like(theta, math.cos(math.radians(rival)))
    losses = objective(torch.stack([theta.cos(), other], dim=1), torch.zeros(len(theta), dtype=torch.int64))
    (slope,) = torch.autograd.grad(losses.sum(), theta)
    return slope.numpy()


def is_content(objective: Objective, own: Tensor, nearest: Tensor) -> Tensor:
    """Whether the own class wins, margin included: cosines own [n], nearest [n] of the nearest other class -> [n].

    For D-Softmax: whether the sample has come as near to its class as the end point d.
    """
    if isinstance(objective, DSoftmax):
        return own >= objective.margin
    return objective.target_cosine(own) > nearest


def draw_logits(scale: float = 20.0, margin: float = 0.5) -> Figure:
    """The own class's logit against its angle, and the slope that training uses over the scale, a line a margin."""
    figure, (left, right) = _panels(2)
    for name, (colour, marker, line) in zip(WITH_A_LOGIT, SERIES, strict=True):
        logit, slope = own_logit(make(name, scale, margin), DEGREES)
        style = dict(color=colour, linestyle=line, marker=marker, label=name)
        left.plot(DEGREES, logit, markevery=30, **style)
        right.plot(DEGREES, slope / scale, markevery=30, **style)
    _turning_point(left, margin)
    _turning_point(right, margin)
    left.set(xlabel="angle to the own class, degrees", ylabel="logit of the own class")
    right.set(xlabel="angle to the own class, degrees", ylabel="slope by the cosine / scale", ylim=(0, 4))
    left.legend(fontsize=SIZE - 2)
    return figure


def draw_objective(choice: str = "CosFace", scale: float = 20.0, margin: float = 0.1, rival: float = 50.0) -> Figure:
    """One objective beside softmax without a margin: its logit, its pull on a sample, and its arcs on the circle.

    rival: degrees between the sample and the only other class, in the first two panels.
    """
    objective, plain = make(choice, scale, margin), make("no margin", scale, 0)
    figure, (logits, pulls, circle) = _panels(3, height=3.6)
    for name, one, (colour, _, line) in (("no margin", plain, SERIES[0]), (choice, objective, SERIES[2])):
        label = name if one is objective else "no margin"
        logits.plot(DEGREES, own_logit(one, DEGREES)[0], color=colour, linestyle=line, label=label)
        pulls.plot(DEGREES, pull(one, DEGREES, rival), color=colour, linestyle="--" if one is plain else "-")
    logits.axhline(scale * math.cos(math.radians(rival)), color=RED, linestyle=":", label=f"rival at {rival:g}°")
    pulls.axvline(rival, color=RED, linestyle=":")
    logits.set(xlabel="angle to the own class, degrees", ylabel="logit of the own class")
    pulls.set(xlabel="angle to the own class, degrees", ylabel="pull: d loss / d angle")
    logits.legend(fontsize=SIZE - 2)
    _circle(circle, objective)
    return figure


def draw_circles(margin: float = 0.3, choices=("no margin", "CosFace", "ArcFace", "D-Softmax")) -> Figure:
    """For each choice the circle with five classes: the arcs where a sample of a class counts as won.

    D-Softmax, which has an end point in the margin's place, is drawn with its default one.
    """
    figure, panels = _panels(len(choices), height=3.0)
    for axes, name in zip(panels, choices, strict=True):
        own = 0.1 if name == "D-Softmax" else margin  # its default, d = 0.9
        _circle(axes, make(name, 20.0, own))
        axes.set_title("D-Softmax, d = 0.9" if name == "D-Softmax" else name, fontsize=SIZE)
    return figure


CLASS_DEGREES = (20, 80, 150, 230, 300)


def arcs(objective: Objective, degrees=None) -> np.ndarray:
    """For each point of the circle at degrees [n], the class (0 to 4) that has won it, or -1: nobody's."""
    degrees = np.arange(0, 360, 0.5) if degrees is None else np.asarray(degrees, dtype=float)
    cosine = _cosine(degrees[:, None] - np.array(CLASS_DEGREES))  # [n, 5]
    largest, place = cosine.topk(2, dim=1)
    content = is_content(objective, largest[:, 0], largest[:, 1])
    return torch.where(content, place[:, 0], -1).numpy()


def _circle(axes, objective: Objective) -> None:
    degrees = np.arange(0, 360, 0.5)
    owner, turn = arcs(objective, degrees), np.radians(degrees)
    axes.plot(np.cos(turn), np.sin(turn), color="lightgray", linewidth=7)
    for c, (place, colour) in enumerate(zip(CLASS_DEGREES, (BLACK, ORANGE, BLUE, GREEN, SKY), strict=True)):
        x, y = math.cos(math.radians(place)), math.sin(math.radians(place))
        axes.plot([0, 0.85 * x], [0, 0.85 * y], color=colour)
        axes.text(0.6 * x + 0.12 * y, 0.6 * y - 0.12 * x, "ABCDE"[c], color=colour, ha="center", va="center")
        mine = owner == c
        axes.plot(np.where(mine, np.cos(turn), np.nan), np.where(mine, np.sin(turn), np.nan), color=colour, linewidth=7)
    axes.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal")
    axes.set_axis_off()


def _turning_point(axes, margin: float) -> None:
    axes.axvline(180 - math.degrees(margin), color="gray", linestyle=(0, (1, 3)))


def _panels(count: int, height: float = 4.0):
    """A figure laid out by hand, which is much faster than a constrained layout."""
    figure, panels = new_figure(10, height, columns=count, dpi=72, layout=None)
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.16 if count < 4 else 0.02, top=0.95, wspace=0.25)
    if count == 4:
        figure.subplots_adjust(left=0.01, top=0.88, wspace=0.05)
    for axes in panels:
        axes.xaxis.label.set_size(SIZE)
        axes.yaxis.label.set_size(SIZE)
        axes.tick_params(labelsize=SIZE - 1)
        axes.grid(alpha=0.3)
    return figure, panels


def _cosine(degrees) -> Tensor:
    return torch.as_tensor(np.cos(np.radians(np.asarray(degrees, dtype=float))))


# ------------------------------------------------------------------------------------------ exercises


def scale_for(share, num_classes):
    """s with e^s / (e^s + N - 1) = share: own cosine 1, all others 0."""
    return math.log(share * (num_classes - 1) / (1 - share))


def arcface_slope(degrees, margin):
    """d psi / d z of ArcFace, past pi - m as well."""
    theta = np.radians(degrees)
    return abs(np.sin(theta + margin)) / np.sin(theta)


def arcface_arc(apart, margin):
    """Degrees from a class to the end of its arc: theta + m = apart - theta."""
    return max(0.0, (apart - np.degrees(margin)) / 2)


EXERCISES = {
    "scale_for": Exercise(
        scale_for, [(0.5, 5204), (0.9, 5204), (0.9, 300_000_000)], hint="solve for e^s first, then take the logarithm"
    ),
    "arcface_slope": Exercise(
        arcface_slope,
        [(30.0, 0.1), (90.0, 0.5), (170.0, 0.5)],
        tolerance=1e-6,
        hint="past pi - m the curve is the mirror image, and its slope has the other sign; degrees are no radians",
    ),
    "arcface_arc": Exercise(
        arcface_arc,
        [(90.0, 0.0), (60.0, 0.3), (10.0, 0.5)],
        tolerance=1e-6,
        hint="theta + m = apart - theta at the end of the arc, which is never shorter than nothing",
    ),
}
