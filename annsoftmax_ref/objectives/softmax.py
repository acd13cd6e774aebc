"""CrossEntropy: the softmax without a margin, and what only it takes: label smoothing and a bias."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref.objectives.base import Objective, number
from kernels_inline.softmax_ops import KINDS


class CrossEntropy(Objective):
    """Softmax cross entropy on scaled cosines (NormFace, Wang et al. 2017): -log softmax(s z)_y.

    label_smoothing e in [0, 1) (Szegedy et al., CVPR 2016, section 7; as in torch): the target distribution is
    (1 - e) on the own class and e / N on each of the N classes. That mean over all N logits is not known from some of
    them, so selectors that leave classes out refuse it. A bias is the head's: ``SoftmaxHead(..., bias=True)``.
    """

    name = "cross_entropy"
    kernel = KINDS["cross_entropy"]
    takes_bias = True
    others_as_one = True

    def __init__(self, scale: float | None = None, label_smoothing: float = 0.0):
        super().__init__(scale, 0.0)
        self.label_smoothing = number("label_smoothing", label_smoothing)
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; it should be at least 0 and below 1")

    @classmethod
    def from_margin(cls, scale: float | None, margin, **options) -> CrossEntropy:
        if margin:
            raise ValueError(f"margin is {margin}; cross_entropy has none: leave it out")
        return cls(scale, **options)

    @property
    def needs_all_classes(self) -> bool:
        return self.label_smoothing > 0

    def check_options(self, bias: bool, class_weights: bool) -> None:
        """As the base; class weights and smoothing together are refused."""
        if class_weights and self.label_smoothing:
            raise ValueError(
                "class_weights is given with label_smoothing, where torch weighs each class's part of the smoothing "
                "too, which is not offered here; take one of the two"
            )

    def forward(self, cosine: Tensor, target: Tensor, offset: Tensor | None = None) -> Tensor:
        """As the base."""
        logits = self.margin_logits(cosine, target, offset)
        return F.cross_entropy(logits, target, reduction="none", label_smoothing=self.label_smoothing)

    def loss_of_sums(self, own, others, mean=None, generator=None):
        """As the base."""
        if mean is None:
            return super().loss_of_sums(own, others)
        e = self.label_smoothing
        return torch.logaddexp(own, others) - (1 - e) * own - e * mean

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}" + (f", label_smoothing={self.label_smoothing:g}" if self.label_smoothing else "")
