"""D-Softmax, and its two variants that compute the push from the other classes on a random subset only."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref.objectives.base import Objective, at_least_float32, number
from annsoftmax_ref.rows import cosines
from kernels_inline.softmax_ops import KINDS


class DSoftmax(Objective):
    """D-Softmax (He et al., AAAI 2020): the pull to the own class is decoupled from the push of the others.

    L = log(1 + e^{s (d - z_y)}) + log(1 + sum_{k != y} e^{s z_k}); ``margin`` is the paper's end point d,
    the cosine at which a sample counts as close enough to its own class.
    Derived in notebook 07, section D-Softmax.
    """

    name = "dsoftmax"
    default_margin = 0.9
    recipe_margin = 0.9
    kernel = KINDS["dsoftmax"]
    others_as_one = True

    def forward(self, cosine: Tensor, target: Tensor, offset: Tensor | None = None) -> Tensor:
        """As the base; ``offset`` applies to the other classes, the pull to the own class knows no weights."""
        cosine = at_least_float32(cosine)
        column = target.unsqueeze(1)
        others = self.others(cosine, offset).scatter(1, column, -math.inf)  # the target's own column is taken out
        return self.intra(cosine.gather(1, column).squeeze(1)) + self.inter(others)

    def intra(self, own: Tensor) -> Tensor:
        """own [b], the cosine with the own class -> log(1 + e^{s (d - z_y)}) [b]."""
        return F.softplus(self.scale * (self.margin - own))

    def others(self, cosine: Tensor, offset: Tensor | None) -> Tensor:
        """cosine [b, A], offset [A] -> the logits [b, A] of the classes that push."""
        return self.scale * cosine if offset is None else self.scale * cosine + offset

    def inter(self, others: Tensor) -> Tensor:
        """others [b, A], -inf where a class is the sample's own -> log(1 + sum of e^others) [b]."""
        # A column of zeros is the "1 +" inside the logarithm.
        return torch.logsumexp(torch.cat([torch.zeros_like(others[:, :1]), others], dim=1), dim=1)


class _SampledDSoftmax(DSoftmax):
    """What the two variants share: ``share`` of something is drawn for the inter part while training."""

    def __init__(self, scale: float | None = None, margin: float | None = None, share: float = 0.25):
        super().__init__(scale, margin)
        self.share = number("share", share)
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {share}; it should be above 0 and at most 1")

    def draw(self, total: int, generator: torch.Generator | None) -> Tensor:
        """round(share * total), at least 1, of the numbers below total, uniformly, ascending, on the CPU."""
        count = max(1, math.floor(self.share * total + 0.5))
        return torch.randperm(total, generator=generator)[:count].sort().values

    def intra_of(self, x: Tensor, directions: Tensor, target: Tensor) -> Tensor:
        """The pull of all samples [b]: b products of two rows, where the matrix would have b A."""
        return self.intra((x * directions.index_select(0, target).to(x.dtype)).sum(dim=1))

    @property
    def draws(self) -> bool:
        """Whether anything is left out just now."""
        return self.training and self.share < 1

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, share={self.share:g}"


class DSoftmaxB(_SampledDSoftmax):
    """D-Softmax-B: the inter part only for a random ``share`` of the batch's samples, against all classes offered.

    Of the paper only the abstract is known to us: that there are variants which sample the inter part, up to 64 times
    faster. That B samples the batch is known at second hand. Ours: the draw is uniform, anew in each step and for each
    active set, at least one sample; the inter part is the mean over the samples drawn, so that its expectation is
    that of ``DSoftmax``; the default share. In eval mode, and on ready-made cosines, it is ``DSoftmax``.
    """

    name = "dsoftmax_b"
    splits = True

    def loss_of_sums(self, own, others, mean=None, generator=None):
        """As the base; one draw of the whole batch's samples."""
        if not self.draws:
            return super().loss_of_sums(own, others)
        chosen = self.draw(len(own), generator).to(own.device)
        inter = self.inter(others[chosen].unsqueeze(1)) * (len(own) / len(chosen))
        return self.intra(own / self.scale).index_add(0, chosen, inter)

    def loss_of(self, x, directions, target, offset=None, generator=None):
        if not self.draws:
            return super().loss_of(x, directions, target, offset, generator)
        chosen = self.draw(len(x), generator).to(x.device)  # [m]
        cosine = at_least_float32(cosines(x.index_select(0, chosen), directions))  # [m, A]
        others = self.others(cosine, offset).scatter(1, target[chosen].unsqueeze(1), -math.inf)
        inter = self.inter(others) * (len(x) / len(chosen))
        return self.intra_of(x, directions, target).index_add(0, chosen, inter)


class DSoftmaxK(_SampledDSoftmax):
    """D-Softmax-K: the inter part of all samples, over a random ``share`` of the negative classes offered.

    Known and ours as for ``DSoftmaxB``. Ours: one uniform draw of the active classes for all samples of an active set,
    so that there is one product of matrices; a sample whose own class is drawn leaves it out; the sum over the classes
    drawn is not scaled up, as nothing is for classes that a selector leaves out; the default share.
    In eval mode, and on ready-made cosines, it is ``DSoftmax``.
    """

    name = "dsoftmax_k"
    splits = True

    def pushing(self, total, generator):
        """As the base."""
        if not self.draws:
            return None
        return torch.zeros(total, dtype=torch.bool).index_fill_(0, self.draw(total, generator), True)

    def loss_of(self, x, directions, target, offset=None, generator=None):
        if not self.draws:
            return super().loss_of(x, directions, target, offset, generator)
        chosen = self.draw(len(directions), generator).to(x.device)  # [m]
        cosine = at_least_float32(cosines(x, directions.index_select(0, chosen)))  # [b, m]
        others = self.others(cosine, None if offset is None else offset[chosen])
        others = others.masked_fill(chosen == target.unsqueeze(1), -math.inf)  # a sample's own class pushes nothing
        return self.intra_of(x, directions, target) + self.inter(others)
