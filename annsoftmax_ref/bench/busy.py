"""Work beside a measurement: copies of it, each in a process of its own, that end with it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from multiprocessing import get_context, parent_process

GRACE = 5.0  # seconds between asking a copy to end and ending it


@contextlib.contextmanager
def copies(count: int, make: Callable[..., Callable[[], None]], *arguments) -> Iterator[list]:
    """Inside the block ``count`` processes each call ``make(*arguments)`` once, and what it returns over and over.

    The block begins when each has done one call. It is given, for each copy, the number of calls so far (``.value``).
    The copies have torch's default number of threads. They are gone after the block, however it ends, and end by
    themselves if this process is killed. make: a function of a module, since it is sent to the processes by its name.
    Raises ChildProcessError if a copy ends by itself.
    """
    spawn = get_context("spawn")
    counters = [spawn.Value("q", 0) for _ in range(count)]
    processes = [
        spawn.Process(target=_repeat, args=(calls, make, arguments), daemon=True, name="copy") for calls in counters
    ]
    try:
        for process in processes:
            process.start()
        for process, calls in zip(processes, counters, strict=True):
            while not calls.value:
                process.join(0.05)
                _check_alive(process)
        yield counters
        for process in processes:
            _check_alive(process)
    finally:
        started = [process for process in processes if process.pid is not None]
        for process in started:
            process.terminate()
        for process in started:
            process.join(GRACE)
            process.kill()
            process.join()


def _check_alive(process) -> None:
    if process.exitcode is not None:
        raise ChildProcessError(f"a copy of the measurement ended with status {process.exitcode} by itself")


def _repeat(calls, make: Callable[..., Callable[[], None]], arguments: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the first one ends the copies
    call = make(*arguments)
    while parent_process().is_alive():
        call()
        calls.value += 1
