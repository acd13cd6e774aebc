"""Margins on the target's angle or cosine: CosFace, ArcFace, insightface's ArcFace, and the combined margin."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from annsoftmax_ref.objectives.base import Objective, number
from kernels_inline.softmax_ops import KINDS

SINE_FLOOR = 1e-12  # 1 - z^2 is clamped below at this: the slope of arccos is infinite at z = +-1


def from_degrees(degrees: float) -> float:
    """An angle in degrees as the radians that margins are given in: ``ArcFace(margin=from_degrees(28.6))``."""
    return math.radians(number("degrees", degrees))


class CosFace(Objective):
    """CosFace (Wang et al., CVPR 2018), equation 4: the target's cosine is lowered by the margin.

    Derived in notebook 07, section CosFace.
    """

    name = "cosface"
    default_margin = 0.1
    recipe_margin = 0.1
    kernel = KINDS["cosface"]

    def target_cosine(self, cosine: Tensor) -> Tensor:
        return cosine - self.margin


class ArcFace(Objective):
    """ArcFace (Deng et al., CVPR 2019), equation 3: the margin (radians) is added to the target's angle.

    The gradient is the true one of cos(theta + m). Past theta = pi - m, where cos(theta + m) would rise
    again, -2 - cos(theta + m) goes on: continuous, with a continuous slope, and falling to the end.
    Derived in notebook 07, section ArcFace.
    """

    name = "arcface"
    default_margin = 0.1
    recipe_margin = 0.1
    kernel = KINDS["arcface"]

    def __init__(self, scale: float | None = None, margin: float | None = None):
        super().__init__(scale, margin)
        if self.margin >= math.pi:
            raise ValueError(f"margin is {self.margin}; ArcFace's margin is in radians and should be below pi")

    def target_cosine(self, cosine: Tensor) -> Tensor:
        turned = self.turned(cosine)
        return torch.where(cosine >= math.cos(math.pi - self.margin), turned, -2 - turned)

    def turned(self, cosine: Tensor) -> Tensor:
        """cos(theta + m), theta = arccos(cosine)."""
        return cosine * math.cos(self.margin) - _sine(cosine) * math.sin(self.margin)


class InsightFaceArcFace(ArcFace):
    """ArcFace as insightface trains it (deepinsight/insightface, recognition/arcface_torch/losses.py).

    There arccos, + m and cos are done in place under ``no_grad``. So two things differ from ``ArcFace``:
    the value is s cos(theta + m) everywhere, which past theta = pi - m rises again; and the gradient passes straight
    through, d logit_y / d z_y = s, where the true one is s sin(theta + m) / sin(theta). For small angles, where that
    factor is large, the pull to the own class is weaker than the formula's; past pi, where it is negative, it still
    pulls. The gradient is that of no function: where the loss is least, it need not vanish.
    Derived in notebook 07, section "A gradient that is not the slope of its loss".
    """

    name = "arcface_insightface"

    def target_cosine(self, cosine: Tensor) -> Tensor:
        return cosine + (self.turned(cosine) - cosine).detach()


class CombinedMargin(Objective):
    """Combined margin (ArcFace paper, Deng et al., CVPR 2019, section 2.1): cos(m1 theta + m2) - m3, radians.

    (1, m, 0) is ArcFace, (1, 0, m) CosFace, and (m, 0, 0) SphereFace's psi (Liu et al., CVPR 2017). With the angle
    a = m1 theta + m2 in piece k = floor(a / pi), the target's cosine is (-1)^k cos a - 2 k - m3: SphereFace's way of
    falling all the way, with a continuous slope, which gives ArcFace's past pi. The gradient is the true one.
    The default splits the margin of CosFace and ArcFace in two; it is ours.
    Derived in notebook 07, section "The combined margin".
    """

    name = "combined"

    def __init__(self, scale: float | None = None, m1: float = 1.0, m2: float = 0.05, m3: float = 0.05):
        super().__init__(scale, 0.0)
        self.m1, self.m2, self.m3 = number("m1", m1), number("m2", m2), number("m3", m3)
        if self.m1 <= 0:
            raise ValueError(f"m1 is {self.m1}; it multiplies the angle and should be above 0")
        if not 0 <= self.m2 < math.pi:
            raise ValueError(f"m2 is {self.m2}; it is in radians and should be at least 0 and below pi")
        if self.m3 < 0:
            raise ValueError(f"m3 is {self.m3}; it should be 0 or more")

    @classmethod
    def from_margin(cls, scale: float | None, margin, **options) -> CombinedMargin:
        if margin is None:
            return cls(scale, **options)
        if not isinstance(margin, (tuple, list)) or len(margin) != 3:
            raise ValueError(f"margin is {margin!r}; combined takes three: (m1, m2, m3)")
        return cls(scale, *margin, **options)

    def target_cosine(self, cosine: Tensor) -> Tensor:
        angle = self.m1 * torch.atan2(_sine(cosine), cosine) + self.m2
        piece = (angle.detach() / math.pi).floor()
        return (1 - 2 * (piece % 2)) * angle.cos() - 2 * piece - self.m3

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}, m1={self.m1:g}, m2={self.m2:g}, m3={self.m3:g}"


def _sine(cosine: Tensor) -> Tensor:
    return (1 - cosine * cosine).clamp_min(SINE_FLOOR).sqrt()
