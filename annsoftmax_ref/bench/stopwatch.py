"""Where the time of a step goes: milliseconds by stage."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from statistics import median

import torch

from annsoftmax_ref.selectors import Selector


class Stopwatch:
    """``phases``: milliseconds of each stage since the last ``reset``; on a GPU by events, which wait for nothing until
    they are asked."""

    def __init__(self, device: torch.device | None = None):
        self.on_gpu = device is not None and device.type == "cuda"
        self.reset()

    def reset(self) -> None:
        self._spent: dict[str, float] = {}
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def time(self, stage: str) -> Iterator[None]:
        if self.on_gpu:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events.append((stage, begin, end))
        else:
            start = time.perf_counter()
            yield
            self._add(stage, (time.perf_counter() - start) * 1e3)

    @property
    def phases(self) -> dict[str, float]:
        for stage, begin, end in self._events:
            end.synchronize()
            self._add(stage, begin.elapsed_time(end))
        self._events.clear()
        return self._spent

    def _add(self, stage: str, ms: float) -> None:
        self._spent[stage] = self._spent.get(stage, 0.0) + ms


def medians(found: list[dict[str, float]]) -> dict[str, float]:
    """The phases of some steps -> the median of each stage."""
    return {stage: median(phases[stage] for phases in found) for stage in found[0]}


class Timed:
    """Makes of a selector's class one whose two parts of a step are timed by ``watch``."""

    watch: Stopwatch

    def prepare(self, *arguments):
        with self.watch.time("prepare"):
            return super().prepare(*arguments)

    def select(self, *arguments):
        with self.watch.time("select"):
            return super().select(*arguments)


def timed(selector: type[Selector]) -> type[Selector]:
    """A class of such selectors that are timed."""
    return type(f"Timed{selector.__name__}", (Timed, selector), {})
