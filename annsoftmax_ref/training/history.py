"""What a training run has seen of itself: a row an epoch, and diagnostics in between."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field


@dataclass
class Epoch:
    """One row of the history. ``seconds``: of training up to here, without evaluation, diagnostics and saving;
    ``accuracy``: 0 to 1, on the test set after this epoch, None if it was not tested then; ``head_ms``: the median
    step's time in the head (loss, backward, update of its rows); ``lr``: at the epoch's start."""

    epoch: int
    seconds: float
    loss: float
    accuracy: float | None
    head_ms: float
    lr: float


@dataclass
class History:
    """``epochs``: a row each. ``diagnostics``: a dict for each sampled step (``head.diagnose`` and its cost)."""

    epochs: list[Epoch] = field(default_factory=list)
    diagnostics: list[dict] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        """After the last epoch; NaN before the first."""
        return self.epochs[-1].accuracy if self.epochs else math.nan

    @property
    def seconds(self) -> float:
        """Of training, up to the end of the last epoch."""
        return self.epochs[-1].seconds if self.epochs else 0.0

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, saved: dict) -> History:
        return cls([Epoch(**row) for row in saved["epochs"]], list(saved["diagnostics"]))
