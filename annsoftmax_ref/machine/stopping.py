"""Being told to stop: by SIGTERM, by SIGINT (Ctrl-C), or by the end of the launcher that watched over this process."""

from __future__ import annotations

import os
import signal
import threading

from annsoftmax_ref.machine.processes import are_launched

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """In a ``with`` block: remembers the first signal, which would else have ended the process.

    A second SIGINT is a KeyboardInterrupt. wanted: whether somebody has asked; name, status: who, and what a shell says
    of a process that such a signal has ended, 128 + its number.
    """

    def __init__(self):
        self.name, self.status = "a signal to another process", 128 + signal.SIGTERM
        self._asked = False
        self._parent = os.getppid() if are_launched() else None

    @property
    def wanted(self) -> bool:
        if not self._asked and self._parent is not None and os.getppid() != self._parent:
            self._ask("the end of torchrun", 128 + signal.SIGTERM)
        return self._asked

    def _ask(self, name: str, status: int) -> None:
        self.name, self.status, self._asked = name, status, True

    def _heard(self, number: int, _) -> None:
        if not self._asked:
            self._ask(signal.Signals(number).name, 128 + number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # others cannot have signals
            self._before = {number: signal.signal(number, self._heard) for number in SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        if self._parent is not None:  # torchrun sends SIGTERM to all once one has ended; let them end by themselves
            return
        for number, handler in getattr(self, "_before", {}).items():
            signal.signal(number, handler)
