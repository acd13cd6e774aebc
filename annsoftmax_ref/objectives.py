"""Objectives: from cosines of one active set to the loss of each sample.

An objective takes ``cosine [b, A]`` (samples by active classes) and ``target [b]`` (the column of each
sample's own class) and gives the loss of each sample ``[b]``. It does not know which classes were left
out: with all classes in, it is the full softmax. What is to be added to the logits from outside, such as the
log-weights of classes that stand for others, is ``offset``. The same formulas in float64 NumPy, with hand-written
gradients, are in ``annsoftmax_ref.reference.objectives``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Objective(nn.Module):
    """Base of all objectives: softmax cross entropy over ``scale * cosine`` with a modified target.

    A subclass changes what a margin does to the target's cosine, or replaces ``forward``.
    """

    default_scale = 20.0
    default_margin = 0.0

    def __init__(self, scale: float | None = None, margin: float | None = None):
        super().__init__()
        self.scale = _number("scale", self.default_scale if scale is None else scale)
        self.margin = _number("margin", self.default_margin if margin is None else margin)
        if self.scale <= 0:
            raise ValueError(f"scale is {self.scale}; it should be above 0")
        if self.margin < 0:
            raise ValueError(f"margin is {self.margin}; it should be 0 or more")

    def target_cosine(self, cosine: Tensor) -> Tensor:
        """What stands in the target's place: psi(cos theta_y) [b]."""
        return cosine

    def forward(self, cosine: Tensor, target: Tensor, offset: Tensor | None = None) -> Tensor:
        """cosine [b, A], target [b] int64, offset [A] (added to the logits) -> each sample's loss [b], in float32 at least."""
        cosine = _at_least_float32(cosine)
        column = target.unsqueeze(1)  # [b, 1]
        modified = self.target_cosine(cosine.gather(1, column))  # [b, 1]
        logits = self.scale * cosine.scatter(1, column, modified)  # [b, A]
        if offset is not None:
            logits = logits + offset
        return F.cross_entropy(logits, target, reduction="none")

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}, margin={self.margin:g}"


class CrossEntropy(Objective):
    """Softmax cross entropy on scaled cosines (NormFace, Wang et al. 2017): -log softmax(s z)_y."""

    def __init__(self, scale: float | None = None):
        super().__init__(scale, 0.0)


class CosFace(Objective):
    """CosFace (Wang et al., CVPR 2018), equation 4: the target's cosine is lowered by the margin."""

    default_margin = 0.1

    def target_cosine(self, cosine: Tensor) -> Tensor:
        return cosine - self.margin


class ArcFace(Objective):
    """ArcFace (Deng et al., CVPR 2019), equation 3: the margin (radians) is added to the target's angle.

    The gradient is the true one of cos(theta + m). Past theta = pi - m, where cos(theta + m) would rise
    again, -2 - cos(theta + m) goes on: continuous, with a continuous slope, and falling to the end.
    """

    default_margin = 0.1

    def __init__(self, scale: float | None = None, margin: float | None = None):
        super().__init__(scale, margin)
        if self.margin >= math.pi:
            raise ValueError(f"margin is {self.margin}; ArcFace's margin is in radians and should be below pi")

    def target_cosine(self, cosine: Tensor) -> Tensor:
        sine = (1 - cosine * cosine).clamp_min(1e-12).sqrt()
        turned = cosine * math.cos(self.margin) - sine * math.sin(self.margin)  # cos(theta + m)
        return torch.where(cosine >= math.cos(math.pi - self.margin), turned, -2 - turned)


class DSoftmax(Objective):
    """D-Softmax (He et al., AAAI 2020): the pull to the own class is decoupled from the push of the others.

    L = log(1 + e^{s (d - z_y)}) + log(1 + sum_{k != y} e^{s z_k}); ``margin`` is the paper's end point d,
    the cosine at which a sample counts as close enough to its own class.
    """

    default_margin = 0.9

    def forward(self, cosine: Tensor, target: Tensor, offset: Tensor | None = None) -> Tensor:
        """As the base; ``offset`` applies to the other classes, the pull to the own class knows no weights."""
        cosine = _at_least_float32(cosine)
        column = target.unsqueeze(1)
        intra = F.softplus(self.scale * (self.margin - cosine.gather(1, column).squeeze(1)))
        # A column of zeros is the "1 +" inside the logarithm; the target's own column is taken out.
        others = self.scale * cosine if offset is None else self.scale * cosine + offset
        others = others.scatter(1, column, -math.inf)
        one = torch.zeros_like(others[:, :1])
        inter = torch.logsumexp(torch.cat([one, others], dim=1), dim=1)
        return intra + inter


OBJECTIVES: dict[str, type[Objective]] = {
    "cross_entropy": CrossEntropy,
    "cosface": CosFace,
    "arcface": ArcFace,
    "dsoftmax": DSoftmax,
}


def make_objective(name: str, scale: float | None = None, margin: float | None = None) -> Objective:
    """The objective of that name (a key of ``OBJECTIVES``); ``None`` takes its default scale or margin."""
    if name not in OBJECTIVES:
        raise ValueError(f"objective is {name!r}; it should be one of {', '.join(OBJECTIVES)}")
    if name == "cross_entropy":
        if margin:
            raise ValueError(f"margin is {margin}; cross_entropy has none: leave it out")
        return CrossEntropy(scale)
    return OBJECTIVES[name](scale, margin)


def _number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"{name} is {value!r}; it should be a finite number")
    return float(value)


def _at_least_float32(cosine: Tensor) -> Tensor:
    # Half-precision cosines come from autocast; exponentials and sums are always taken in float32.
    return cosine.float() if cosine.dtype in (torch.bfloat16, torch.float16) else cosine
