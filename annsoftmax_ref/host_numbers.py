"""Numbers that the host knows and the device needs: counters kept in buffers, and what is drawn or set anew each step.

Reading a buffer that is on a GPU waits for all that the GPU was given. So what was written last, or read once, is
remembered beside the buffer, until somebody else writes to it.

A step that is recorded once and replayed (``annsoftmax_ref.captured``) holds device work only: what the host decides
must be decided again, and lie where the device will look for it. So whoever decides something says it as a function,
to ``told``, ``advance`` or ``each_time``. Outside of a recorded step that is called at once, and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

Value = int | float | Sequence[float] | Tensor


def number(buffer: Tensor) -> int:
    """The value of a buffer of one whole number or flag; asked of the device if it is not known."""
    known = getattr(buffer, "known_on_host", None)
    if known is None or known[0] != _version(buffer):
        known = _remember(buffer, int(buffer))
    return known[1]


def set_number(buffer: Tensor, value: int) -> None:
    """Write the value, without waiting for the device."""
    buffer.fill_(value)
    _remember(buffer, int(value))


def advance(buffer: Tensor, rule: Callable[[int], int]) -> None:
    """Write rule(value) in place of the value."""
    _hear(lambda: rule(number(buffer)), lambda value: buffer)


def told(decide: Callable[[], Value], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """What the host decides, a number or several, on the device (a tensor that is there already: itself)."""
    if _listener is None:
        value = decide()
        if isinstance(value, (int, float)):
            return torch.full((), value, dtype=dtype, device=device)  # without a copy
        return torch.as_tensor(value, dtype=dtype).to(device, non_blocking=True)
    return _listener.hear(decide, lambda value: torch.empty_like(torch.as_tensor(value, dtype=dtype), device=device))


def each_time(action: Callable[[], None]) -> None:
    """Something that the host does for itself, once a step."""
    _hear(action, lambda value: None)


def is_recorded() -> bool:
    """Whether the step that runs will be replayed."""
    return _listener is not None


class Retold:
    """What the host decides in a step, in order, so that it can be decided again.

    The step first runs as it is (``listening(captured=False)``), which makes the places that the device reads from;
    then it is captured (True), when nothing can be written to them. ``tell`` writes to them, before each replay.
    """

    def __init__(self):
        self._decisions: list[tuple[Callable[[], Value | None], Tensor | None]] = []
        self._decided: list[Value | None] = []  # as the step was captured: what its first replay is to be told
        self._captured = False

    @contextmanager
    def listening(self, captured: bool) -> Iterator[None]:
        global _listener
        self._captured, _listener = captured, self
        try:
            yield
        finally:
            _listener = None

    def hear(self, decide: Callable[[], Value | None], place: Callable[[Value | None], Tensor | None]) -> Tensor | None:
        value = decide()
        if not self._captured:
            where = place(value)
            self._decisions.append((decide, where))
            _write(value, where)
            return where
        nth = len(self._decided)
        where = self._decisions[nth][1]
        self._decisions[nth] = decide, where
        self._decided.append(value)
        if where is not None and where.dim() == 0:
            _remember(where, value)  # for what is decided later in this step
        return where

    def tell(self) -> None:
        """Write what is decided for the next replay."""
        for decide, where in self._decisions:
            _write(self._decided.pop(0) if self._decided else decide(), where)


_listener: Retold | None = None


def _hear(decide: Callable[[], Value | None], place: Callable[[Value | None], Tensor | None]) -> Tensor | None:
    if _listener is not None:
        return _listener.hear(decide, place)
    value = decide()
    where = place(value)
    _write(value, where)
    return where


def _write(value: Value | None, where: Tensor | None) -> None:
    """Without waiting for the device."""
    if where is None:
        return
    if where.dim() == 0:
        set_number(where, value)
    else:
        where.copy_(torch.as_tensor(value, dtype=where.dtype), non_blocking=True)


def _remember(buffer: Tensor, value: int) -> tuple[int, int]:
    buffer.known_on_host = known = (_version(buffer), value)
    return known


def _version(buffer: Tensor) -> int:
    """How often it was written to; of one that was made in inference mode nobody counts."""
    return -1 if buffer.is_inference() else buffer._version
