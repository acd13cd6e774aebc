"""An active budget that follows a target: how much of the softmax's mass the active sets are to hold.

How many classes matter changes during training: with flat logits the mass lies on many of them, later on few. So the
rate A / N is moved, a little each step, until the share of the mass on other classes that lies in the active sets is
the one asked for. Ours, every number included.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from annsoftmax_ref.active_sets import ActiveSets
from annsoftmax_ref.beyond.drawn import draw_distinct, draw_outside, scaled_cosines
from annsoftmax_ref.checks import check_share

SAMPLES = 16  # of one group, that a look measures
DRAWN = 256  # classes outside the active set, that stand for all of them

AVERAGE = 0.1  # weight of the newest look in the moving average
GAIN = 0.05  # how much of the gap (in logarithms of the missing mass) a step makes up for
MOST = 1.1  # the rate changes by a tenth a step at most


class MassBudget(nn.Module):
    """The present rate, and the moving average of the measured mass; both are buffers, saved with the head.

    least: the rate to start from, which is also the smallest: a batch that fits once always fits. target: the share
    of the mass to hold. The missing share m = 1 - mass is compared with the 1 - target that is allowed:
    rate <- rate * (m / (1 - target))^GAIN, between ``least`` and 1. Raises ValueError or TypeError for another target
    than one above 0 and below 1, which ``NearestClasses`` calls mass_target.
    """

    def __init__(self, least: float, target: float):
        super().__init__()
        self.least, self.target = least, check_share("mass_target", target)
        self.register_buffer("rate", torch.tensor(least, dtype=torch.float32))
        self.register_buffer("mass", torch.tensor(math.nan, dtype=torch.float32))  # nothing measured yet

    @property
    def present(self) -> float:
        """The rate to use now; what is stored is a float32, which may lie a little below ``least``."""
        return max(self.least, float(self.rate))

    def observe(self, x: Tensor, active: ActiveSets, weight: Tensor, scale: float, generator: torch.Generator) -> None:
        """Measure the mass in the active set of one group, another one each step, and follow it."""
        group = active[int(torch.randint(len(active), (), generator=generator))]
        self.follow(captured_mass(x[group.samples], group.targets, weight, group.classes, scale, generator))

    def follow(self, measured: float) -> None:
        """Take one more measurement in, and move the rate."""
        before = float(self.mass)
        mass = measured if math.isnan(before) else before + AVERAGE * (measured - before)
        factor = (max(1 - mass, 1e-6) / (1 - self.target)) ** GAIN
        rate = float(self.rate) * min(MOST, max(1 / MOST, factor))
        self.mass.fill_(mass)
        self.rate.fill_(min(1.0, max(self.least, rate)))

    def extra_repr(self) -> str:
        return f"least={self.least:g}, target={self.target:g}"


@torch.no_grad()
def captured_mass(
    x: Tensor, targets: Tensor, weight: Tensor, classes: Tensor, scale: float, generator: torch.Generator
) -> float:
    """Of the samples' mass on other classes, sum of e^{s z}, the share in ``classes``; their mean, estimated.

    x [b, d] unit rows, targets [b] (the samples' own columns in ``classes``), weight [N, d], classes [A] ascending.
    The mass inside is exact, that outside estimated from ``DRAWN`` classes drawn uniformly; at most ``SAMPLES`` of
    the samples, drawn too. Cost: 2 SAMPLES (A + DRAWN) d operations, a copy of A rows and N flags. Rows that an
    optimizer holds back are taken as they stand.
    """
    rest = len(weight) - len(classes)
    if rest == 0:
        return 1.0
    some = draw_distinct(len(x), min(SAMPLES, len(x)), generator).to(x.device)
    member = torch.zeros(len(weight), dtype=torch.bool, device=x.device).index_fill_(0, classes, True)
    drawn = draw_outside(member, min(DRAWN, rest), generator)
    x, own = x[some], targets[some].unsqueeze(1)
    inside = scaled_cosines(x, weight, classes, scale).scatter(1, own, -torch.inf).logsumexp(dim=1)
    beyond = scaled_cosines(x, weight, drawn, scale).logsumexp(dim=1) + math.log(rest / len(drawn))
    return (inside - beyond).sigmoid().mean().item()
