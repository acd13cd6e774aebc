"""Whole numbers that a module keeps as buffers, to be saved and loaded with it, and that the host is to know.

Reading a buffer that is on a GPU waits for all that the GPU was given. So what was written last, or read once, is
remembered beside the buffer, until somebody else writes to it.
"""

from __future__ import annotations

from torch import Tensor


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


def _remember(buffer: Tensor, value: int) -> tuple[int, int]:
    buffer.known_on_host = known = (_version(buffer), value)
    return known


def _version(buffer: Tensor) -> int:
    """How often it was written to; of one that was made in inference mode nobody counts."""
    return -1 if buffer.is_inference() else buffer._version
