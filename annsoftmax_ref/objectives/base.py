"""Objective: what all objectives share, softmax cross entropy over cosines with a modified target."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from annsoftmax_ref.rows import cosines


class Objective(nn.Module):
    """Base of all objectives: softmax cross entropy over ``scale * cosine`` with a modified target.

    A subclass changes what a margin does to the target's cosine, or replaces ``forward``, or, where it does not need
    the whole product, ``loss_of``. With a ``name`` it can be registered (``register_objective``), for others to use.
    """

    name: str | None = None  # in tables and on the command line
    default_scale = 20.0
    default_margin = 0.0
    recipe_margin: float | None = None  # that ``training.default_recipe`` writes down; None: the default
    kernel: int | None = None  # of ``kernels_inline.softmax_ops.KINDS``, which computes this formula; never inherited
    takes_bias = False  # whether a bias of each class makes sense in its logits
    others_as_one = True  # whether other classes matter by the sum of their exponentials alone: ``loss_of_sums``
    splits = True  # whether ``loss_of_sums`` makes its loss of sums over classes that are on several processes
    needs_all_classes = False  # whether its value is meant over all classes, and no others may be left out

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # Of the class alone: a subclass may have a formula of its own, which no kernel knows.
        own = vars(cls)
        cls.kernel = own.get("kernel")
        cls.others_as_one = own.get("others_as_one", cls.others_as_one and not {"forward", "loss_of"} & own.keys())
        cls.splits = own.get("splits", cls.others_as_one)

    def __init__(self, scale: float | None = None, margin: float | None = None):
        super().__init__()
        self.scale = number("scale", self.default_scale if scale is None else scale)
        self.margin = number("margin", self.default_margin if margin is None else margin)
        if self.scale <= 0:
            raise ValueError(f"scale is {self.scale}; it should be above 0")
        if self.margin < 0:
            raise ValueError(f"margin is {self.margin}; it should be 0 or more")

    @classmethod
    def from_margin(cls, scale: float | None, margin, **options) -> Objective:
        """The objective with that margin (None: the default), in the form in which ``make_objective`` is given it."""
        return cls(scale, margin, **options)

    def target_cosine(self, cosine: Tensor) -> Tensor:
        """What stands in the target's place: psi(cos theta_y) [b]."""
        return cosine

    def margin_logits(self, cosine: Tensor, target: Tensor, offset: Tensor | None = None) -> Tensor:
        """cosine [b, A], target [b], offset [A] -> s z, with s psi(z_y) in the target's place, + offset [b, A]."""
        cosine = at_least_float32(cosine)
        column = target.unsqueeze(1)  # [b, 1]
        modified = self.target_cosine(cosine.gather(1, column))  # [b, 1]
        logits = self.scale * cosine.scatter(1, column, modified)  # [b, A]
        return logits if offset is None else logits + offset

    def forward(self, cosine: Tensor, target: Tensor, offset: Tensor | None = None) -> Tensor:
        """cosine [b, A], target [b] int64, offset [A] (added to the logits) -> loss of each sample [b], in float32."""
        return F.cross_entropy(self.margin_logits(cosine, target, offset), target, reduction="none")

    def loss_of(
        self,
        x: Tensor,
        directions: Tensor,
        target: Tensor,
        offset: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """x [b, d] and directions [A, d], rows of length 1, target [b], offset [A] -> loss of each sample [b].

        generator: of what an objective draws at random (the head's, so that a saved head draws on as before).
        """
        return self(cosines(x, directions), target, offset)

    def loss_of_sums(
        self, own: Tensor, others: Tensor, mean: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """own [b], the logit of each sample's class, others [b], log sum e^logit of all others -> loss of each [b].

        What ``forward`` makes of all columns, where ``others_as_one``: to the sum, one column is as good as many.
        mean [b]: of all logits, for an objective that ``needs_all_classes``. generator: of what is drawn.
        """
        own_place = torch.zeros(len(own), dtype=torch.int64, device=own.device)
        return self(torch.stack([own, others], dim=1) / self.scale, own_place)

    def pushing(self, total: int, generator: torch.Generator | None) -> Tensor | None:
        """Which of ``total`` columns push samples that are not theirs [total], drawn anew; None: all of them."""
        return None

    def check_options(self, bias: bool, class_weights: bool) -> None:
        """ValueError where the head is asked for a bias or class weights that this objective cannot honour."""
        if bias and not self.takes_bias:
            raise ValueError(f"bias is {bias}; {type(self).__name__} takes none, only CrossEntropy does")

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}, margin={self.margin:g}"


def number(name: str, value: float) -> float:
    """value as a float; TypeError unless it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"{name} is {value!r}; it should be a finite number")
    return float(value)


def at_least_float32(cosine: Tensor) -> Tensor:
    """Half-precision cosines come from autocast; exponentials and sums are always taken in float32."""
    return cosine.float() if cosine.dtype in (torch.bfloat16, torch.float16) else cosine
