"""Real processes for a notebook: a function of a cell, run by so many processes of one group of torch.distributed.

``on_processes(3, work)`` runs ``work(rank, group)`` in three processes of this machine and returns what they returned;
what they printed stands below the cell, process by process. ``Processes`` is the same as a ``with``, for whoever wants
to see their lines as they come, to kill one, or to read their errors.

A process begins with nothing but the text of the function, and of those in ``using``: it imports what it needs, as a
script does. All of them end with the ``with``, whatever happens in it, an interrupted cell included, and with the
kernel. They are forked from a server that has imported torch once, so that they start in a tenth of a second.
"""

from __future__ import annotations

import inspect
import os
import pickle
import shutil
import signal
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

import torch
import torch.distributed as dist

from annsoftmax_ref.checks import check_positive_int

# What a process would else import by itself, each of them anew: torch._dynamo is what optimizers and wrappers ask for.
PRELOADED = [__name__, "annsoftmax_ref.training.sharded", "torch.distributed.fsdp", "torch._dynamo", "numpy.random"]
START = 120.0  # seconds until all have met; the server's own start, at the first call, is the most of it
GRACE = 3.0  # seconds that the others have once a process has failed


@dataclass(frozen=True)
class Outcome:
    """What a process returned, or why it did not: error, a sentence, is None if it did. seconds: until it ended, from
    when all had met."""

    returned: object = None
    error: str | None = None
    seconds: float = 0.0


class Processes:
    """``ranks`` processes that run ``function(rank, group, *arguments)``; group is one of gloo, over all of them.

    using: functions that it calls, whose text goes along. What goes to and fro is pickled. timeout: seconds from when
    all have met, after which those that still run are killed. Once one has failed, the others have ``GRACE`` seconds to
    end by themselves.
    """

    def __init__(
        self, ranks: int, function: Callable, *arguments, using: Sequence[Callable] = (), timeout: float = 60.0
    ):
        self.ranks, self.timeout = check_positive_int("ranks", ranks), timeout
        self._call = "\n".join(_text_of(part) for part in (*using, function)), function.__name__, arguments
        self._outcomes: list[Outcome | None] = [None] * ranks  # until all are known, by the clock's own seconds
        self._processes, self._pipes, self._met = [], [], 0

    def __enter__(self) -> Processes:
        self._folder, self._start = Path(tempfile.mkdtemp(prefix="annsoftmax_ranks_")), time.monotonic()
        self._deadline, context = self._start + START, get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        call = pickle.dumps(self._call)
        try:
            for rank in range(self.ranks):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_live, args=(rank, self.ranks, str(self._folder), call, theirs, self.timeout), daemon=True
                )
                self._pipes.append(ours)
                process.start()
                self._processes.append(process)
                theirs.close()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def kill(self, rank: int) -> None:
        """SIGKILL: the process ends where it is, and tells nobody."""
        self._processes[rank].kill()

    def lines(self) -> Iterator[tuple[int, str]]:
        """(rank, line) of what is printed, as it comes, until all have ended."""
        while running := [rank for rank, outcome in enumerate(self._outcomes) if outcome is None]:
            left = self._deadline - time.monotonic()
            if left <= 0:
                self._stop(running)
                return
            for ready in connection.wait([self._pipes[rank] for rank in running], timeout=left):
                yield from self._heard(self._pipes.index(ready))

    def wait(self) -> list[Outcome]:
        """Of all processes, once they have ended."""
        for _ in self.lines():
            pass
        return [replace(outcome, seconds=outcome.seconds - self._start) for outcome in self._outcomes]

    def _heard(self, rank: int) -> Iterator[tuple[int, str]]:
        try:
            kind, value = pickle.loads(self._pipes[rank].recv_bytes())
        except (EOFError, ConnectionResetError):  # it has ended without a word
            self._processes[rank].join()
            end = _end_of(self._processes[rank].exitcode, self._folder / f"{rank}.txt")
            kind, value = "raised", (end, time.monotonic())
        if kind == "said":
            yield rank, value
        elif kind == "met":
            self._met += 1
            if self._met == self.ranks:
                self._start = time.monotonic()
                self._deadline = self._start + self.timeout
        elif kind == "returned":
            self._outcomes[rank] = Outcome(value, None, time.monotonic())
        else:  # by its own clock, which is everybody's: pipes are not read in the order of what happened
            error, when = value
            self._outcomes[rank] = Outcome(None, error, when)
            self._deadline = min(self._deadline, time.monotonic() + GRACE)

    def _stop(self, running: list[int]) -> None:
        for rank in running:
            self._processes[rank].kill()
            now = time.monotonic()
            error = f"still waiting after {now - self._start:.1f} s, and ended from outside"
            self._outcomes[rank] = Outcome(None, error, now)


def on_processes(
    ranks: int, function: Callable, *arguments, using: Sequence[Callable] = (), timeout: float = 60.0
) -> list:
    """What ``function(rank, group, *arguments)`` returned in each of the processes; prints what they printed.

    Raises RuntimeError with the error of the process that failed first.
    """
    said: list[list[str]] = [[] for _ in range(ranks)]
    with Processes(ranks, function, *arguments, using=using, timeout=timeout) as running:
        for rank, line in running.lines():
            said[rank].append(line)
        outcomes = running.wait()
    for rank, lines in enumerate(said):
        for line in lines:
            print(f"process {rank}: {line}")
    failed = [(outcome.seconds, rank) for rank, outcome in enumerate(outcomes) if outcome.error is not None]
    if failed:
        rank = min(failed)[1]
        raise RuntimeError(f"process {rank} of {ranks}: {outcomes[rank].error}")
    return [outcome.returned for outcome in outcomes]


# --- in the processes --------------------------------------------------------------------------------------


class _Told:
    """What is printed goes to the notebook, line by line."""

    def __init__(self, tell: Callable[[str, object], None]):
        self.tell, self.begun = tell, ""

    def write(self, text: str) -> int:
        *lines, self.begun = (self.begun + text).split("\n")
        for line in lines:
            self.tell("said", line)
        return len(text)

    def flush(self) -> None:
        """Lines go as they are ended."""


def _live(rank: int, ranks: int, folder: str, call: bytes, pipe, timeout: float) -> None:
    """The whole life of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupted cell ends it by ``__exit__``
    threading.Thread(target=_end_with, args=(parent_process().sentinel, folder), daemon=True).start()
    _redirect(Path(folder, f"{rank}.txt"))

    def tell(kind: str, value) -> None:
        pipe.send_bytes(pickle.dumps((kind, value)))

    sys.stdout = _Told(tell)
    try:
        _meet(rank, ranks, folder, timeout)
        tell("met", None)
        tell("returned", _call(rank, call))
    except BaseException as error:
        tell("raised", (f"{type(error).__name__}: {error}", time.monotonic()))
        os._exit(1)  # as a script would end: connections break off, and others that wait notice
    # It stays until all are done: what it sent may still be under way to others.
    pipe.poll(None)
    os._exit(0)


def _meet(rank: int, ranks: int, folder: str, timeout: float) -> None:
    """At a file, which takes no port."""
    limit = timedelta(seconds=START + timeout)
    dist.init_process_group("gloo", f"file://{folder}/meeting", timeout=limit, rank=rank, world_size=ranks)


def _call(rank: int, call: bytes):
    torch.set_num_threads(1)
    text, name, arguments = pickle.loads(call)
    names: dict = {"__name__": "__main__"}
    exec(compile(text, f"<{name}>", "exec"), names)
    return names[name](rank, dist.group.WORLD, *arguments)


def _end_with(sentinel: int, folder: str) -> None:
    """Ends this process when the notebook's has ended, which could not tidy up."""
    connection.wait([sentinel])
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _redirect(file: Path) -> None:
    """What libraries write to the terminal would come in any order."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)


# --- the function's text, and a process's end ----------------------------------------------------------------


def _text_of(function: Callable) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as error:
        raise TypeError(f"function is {function!r}, which has no text; it should be defined in a cell") from error


def _end_of(exitcode: int | None, file: Path) -> str:
    if exitcode is not None and exitcode < 0:
        return f"killed by {signal.Signals(-exitcode).name}"
    written = file.read_text(errors="replace").strip().splitlines() if file.exists() else []
    return f"ended with {exitcode}" + (f": {written[-1]}" if written else "")
