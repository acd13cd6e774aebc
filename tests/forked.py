"""``annsoftmax`` in processes as torchrun starts them, without its seconds: forked from one that has imported all."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


class Forked:
    """One run's processes. said: what each has written, standard output and error together."""

    def __init__(self, ranks: int, folder: Path, pids: list[int], server: Server):
        self.ranks, self.folder, self.pids, self._server = ranks, folder, pids, server

    def said(self, rank: int | None = None) -> str:
        some = range(self.ranks) if rank is None else [rank]
        return "".join((self.folder / f"said_{number}.txt").read_text() for number in some)

    def until(self, words: str, timeout: float = 60.0) -> None:
        """Until some process has said so."""
        end = time.monotonic() + timeout
        while words not in self.said():
            assert time.monotonic() < end, f"none has said {words!r}:\n{self.said()}"
            time.sleep(0.01)

    def send(self, number: int, *ranks: int) -> None:
        for rank in ranks:
            os.kill(self.pids[rank], number)

    def wait(self) -> list[int]:
        """The exit statuses, as ``subprocess`` has them: -9 for one ended by SIGKILL."""
        return self._server.ask({"wait": self.pids})


class Server:
    """The process that forks the others; its own standard input and output carry what it is asked, in JSON."""

    def __init__(self):
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, ranks: int, folder: Path, *arguments: str) -> Forked:
        """``annsoftmax ARGUMENTS`` on so many processes; folder: for what they say."""
        folder.mkdir(parents=True, exist_ok=True)
        pids = self.ask({"start": arguments, "ranks": ranks, "folder": str(folder)})
        return Forked(ranks, folder, pids, self)

    def ask(self, request: dict) -> list[int]:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def _start(arguments: list[str], ranks: int, folder: str) -> list[int]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    for rank in range(ranks):
        Path(folder, f"said_{rank}.txt").write_text("")
    return [_fork(arguments, ranks, folder, rank, port) for rank in range(ranks)]


def _fork(arguments: list[str], ranks: int, folder: str, rank: int, port: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    said = os.open(Path(folder, f"said_{rank}.txt"), os.O_WRONLY | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from annsoftmax_ref.cli import main

    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    sys.stdout.flush()
    os._exit(status)


def _wait(pids: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


if __name__ == "__main__":
    for name in ("annsoftmax_ref.cli", "torch._dynamo"):  # the second is what torch's first optimizer imports
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        answer = _wait(asked["wait"]) if "wait" in asked else _start(asked["start"], asked["ranks"], asked["folder"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
