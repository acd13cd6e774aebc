"""Where a head's time goes while it trains: milliseconds a step of its parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import mean, median

from annsoftmax_ref import SoftmaxHead

STAGES = ("prepare", "select", "forward", "backward")


class Phases:
    """From its making on, times each forward pass of ``head`` and the two parts of it that its selector does."""

    def __init__(self, head: SoftmaxHead):
        self.ms: dict[str, list[float]] = {"prepare": [], "select": [], "whole": []}
        selector = head.selector
        selector.prepare = self._timed("prepare", selector.prepare)
        selector.select = self._timed("select", selector.select)
        head.forward = self._timed("whole", head.forward)

    def of_steps(self, head_ms: float) -> dict[str, float]:
        """The stages of a median step of ``head_ms`` milliseconds, loss to update: medians, but for "prepare" the
        mean, in which what is built now and then is spread over all steps. "forward" is without the two before it."""
        prepare, select, whole = (median(spent) if spent else 0.0 for spent in self.ms.values())
        spread = mean(self.ms["prepare"]) if self.ms["prepare"] else 0.0
        return dict(zip(STAGES, (spread, select, whole - prepare - select, head_ms - whole), strict=True))

    def _timed(self, stage: str, function: Callable) -> Callable:
        def call(*arguments, **named):
            start = time.perf_counter()
            result = function(*arguments, **named)
            self.ms[stage].append((time.perf_counter() - start) * 1e3)
            return result

        return call
