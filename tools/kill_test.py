"""Kill ``annsoftmax train`` again and again, and see that nothing is lost: ``make kill-test``.

A run on some processes is killed by SIGKILL at random times, one process of it or all, and each time goes on with
--resume. It must end bit for bit where an uninterrupted run ends, and leave no process behind. Then the launcher alone
is killed: its processes must save and end by themselves. Last, a run that was killed once goes on with another number
of processes: it must end there up to the noise between runs, which is measured by further seeds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from statistics import stdev

import torch

from annsoftmax_ref.experiments import records
from annsoftmax_ref.training.sharded.manifest import read_manifest
from annsoftmax_ref.training.sharded.metadata import read_metadata
from annsoftmax_ref.training.sharded.tensors import read_tensors

ROOT = Path(__file__).resolve().parents[1]
WHO = ("one", "all")  # is killed
GONE = 60.0  # seconds in which all must have ended once one has been killed
TOKEN = "ANNSOFTMAX_KILL_TEST"
BEGUN = "training: "  # what a run says when it begins to
SHARE = 8  # part of a whole run's time in which a kill comes
SIGMAS = 3.0


class Run:
    """``annsoftmax train`` under torchrun, in processes that are known by a variable of their environment."""

    def __init__(self, ranks: int, folder: Path, settings: list[str]):
        self.token, self.folder, self.started = uuid.uuid4().hex, folder, time.monotonic()
        self.log = folder.with_suffix(".log")
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        record = folder.with_suffix(".json")
        command = ["-m", "annsoftmax_ref", "train", "--checkpoints", str(folder), "--resume", "--json", str(record)]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [*launcher, *command, *settings],
                env=os.environ | {TOKEN: self.token, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def members(self) -> dict[int, bool]:
        """The processes that are there, the launcher among them: whether each is one of the ranks."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                variables = path.read_bytes().split(b"\0")
                if f"{TOKEN}={self.token}".encode() in variables:
                    found[int(path.parent.name)] = any(name.startswith(b"RANK=") for name in variables)
        return found

    def kill(self, who: str, draw: random.Random) -> None:
        """who: "one" of its ranks, "all" that is there, or the "launcher" alone."""
        members = self.members()
        ranks = sorted(pid for pid, is_rank in members.items() if is_rank)
        if who == "one" and ranks:
            chosen = [draw.choice(ranks)]
        else:
            chosen = [self.process.pid] if who == "launcher" else sorted(members)
        for pid in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> None:
        """Until the launcher has ended and no process is left. AssertionError if one is."""
        self.process.wait(timeout)
        end = time.monotonic() + GONE
        while left := self.members():
            if time.monotonic() > end:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                raise AssertionError(f"processes {sorted(left)} are left {GONE:g} s after a kill:\n{self.said()}")
            time.sleep(0.05)

    def finish(self) -> dict:
        """To its end -> its row."""
        self.wait()
        assert self.process.returncode == 0, self.said()
        return records.read_record(self.folder.with_suffix(".json"))["rows"][0]

    def said(self) -> str:
        return self.log.read_text()[-3000:]

    def begin(self) -> float:
        """Until it trains -> how many seconds that took."""
        while BEGUN not in self.said():
            if self.process.poll() is not None:
                raise AssertionError(f"the run ended before it began:\n{self.said()}")
            time.sleep(0.02)
        return time.monotonic() - self.started

    def sleep(self, seconds: float) -> bool:
        """Whether it has come to its end by then. AssertionError if it ended otherwise."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        if self.process.poll():
            raise AssertionError(self.said())
        return self.process.poll() is not None


def kill_in_a_row(kills: int, ranks: int, folder: Path, settings: list[str], spans: dict, draw) -> list[dict]:
    """Start and kill a run so many times: one in five within the seconds ``spans["start"]``, while it starts, the
    others within ``spans["train"]`` after that, so that twenty kills come about as far as one whole run."""
    done = []
    for number in range(1, kills + 1):
        run, when, who = Run(ranks, folder, settings), draw.choices(("start", "train"), (1, 4))[0], draw.choice(WHO)
        after = draw.uniform(0, spans[when])
        if when == "train":
            run.begin()
        finished = run.sleep(after)
        run.kill(who, draw)
        run.wait(GONE)
        step = latest(folder)
        done.append({"who": who, "when": when, "seconds": round(after, 2), "newest_step": step, "finished": finished})
        print(f"kill {number}: {who}, {after:.1f} s into its {when}; newest checkpoint: step {step}", flush=True)
    return done


def kill_after(ranks: int, folder: Path, settings: list[str], step: int, who: str, draw) -> int:
    """Kill a run once it has a checkpoint of ``step`` or later -> the step of its newest one."""
    run = Run(ranks, folder, settings)
    while (latest(folder) or 0) < step:
        assert not run.sleep(0.02), f"the run ended before step {step}"
    run.kill(who, draw)
    run.wait(GONE)
    return latest(folder)


def latest(folder: Path) -> int | None:
    """The step of the newest whole checkpoint."""
    whole = [path.parent.name for path in folder.glob("step_*/manifest.json") if path.parent.suffix != ".tmp"]
    return max((int(name.removeprefix("step_")) for name in whole), default=None)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All that the newest checkpoint holds, by name."""
    newest = folder / f"step_{latest(folder):08d}"
    metadata = read_metadata(newest, set(read_manifest(newest)["files"]))
    found = {
        name: torch.empty(part.size, dtype=part.properties.dtype) for name, part in metadata.state_dict_metadata.items()
    }
    read_tensors(found, newest, metadata)
    return found


def differing(first: Path, second: Path) -> list[str]:
    """Names of tensors that are not equal bit for bit."""
    a, b = tensors(first), tensors(second)
    same = {name for name in a.keys() & b.keys() if a[name].dtype == b[name].dtype and torch.equal(a[name], b[name])}
    return sorted((a.keys() | b.keys()) - same)


def losses(row: dict) -> list[float]:
    return [epoch["loss"] for epoch in row["history"]]


def ends(row: dict) -> dict[str, float]:
    """What a run is judged by at its end."""
    return {"loss": row["loss"], **{name: value for name, value in row["metrics"].items() if value is not None}}


def test_same(arguments, folder: Path, settings: list[str], draw) -> dict:
    run = Run(arguments.ranks, folder / "whole", settings)
    start, whole = run.begin(), run.finish()
    spans = {"start": start, "train": (time.monotonic() - run.started - start) / SHARE}
    print(f"uninterrupted: {start:.0f} s to start, {SHARE * spans['train']:.0f} s to train; loss {whole['loss']:.6f}")
    kills = kill_in_a_row(arguments.kills, arguments.ranks, folder / "killed", settings, spans, draw)
    killed = Run(arguments.ranks, folder / "killed", settings).finish()
    others = differing(folder / "whole", folder / "killed")
    assert losses(killed) == losses(whole), (losses(killed), losses(whole))
    assert killed["metrics"] == whole["metrics"] and others == [], others
    print(f"after {len(kills)} kills: equal bit for bit, and no process is left")
    return {"whole": whole, "kills": kills, "tensors": len(tensors(folder / "whole"))}


def test_orphans(arguments, folder: Path, settings: list[str], draw) -> dict:
    """The launcher is killed, and its processes with nobody to watch over them."""
    run = Run(arguments.ranks, folder / "orphans", settings)
    run.begin()
    run.sleep(draw.uniform(0, 5))
    started = time.monotonic()
    run.kill("launcher", draw)
    run.wait(GONE)
    seconds, said = time.monotonic() - started, run.said()
    assert "stopped by the end of torchrun after step" in said and latest(folder / "orphans"), said
    print(f"launcher killed: its processes saved step {latest(folder / 'orphans')} and ended {seconds:.1f} s later")
    return {"orphans_ended_after_s": round(seconds, 2)}


def test_other(arguments, folder: Path, settings: list[str], draw, whole: dict) -> dict:
    """Killed on ``ranks``, resumed on ``then``; and the noise between runs with other seeds."""
    total, who = whole["step"], draw.choice(WHO)
    step = kill_after(arguments.ranks, folder / "moved", settings, draw.randrange(1, total // 2), who, draw)
    moved = Run(arguments.then, folder / "moved", settings).finish()
    seeds = [
        ends(Run(arguments.ranks, folder / f"seed{seed}", [*settings, "--seed", str(seed)]).finish())
        for seed in range(1, arguments.seeds)
    ]
    compared = {}
    for name, value in ends(whole).items():
        noise = stdev([value, *(one[name] for one in seeds)])
        compared[name] = {
            "whole": value,
            "moved": ends(moved)[name],
            "noise": noise,
            "others": [s[name] for s in seeds],
        }
        moved_to = f"{ends(moved)[name]:.5f} going on from step {step} on {arguments.then} processes"
        print(f"{name}: {value:.5f} uninterrupted, {moved_to}; between seeds ± {noise:.5f}", flush=True)
    far = [name for name, one in compared.items() if abs(one["moved"] - one["whole"]) > SIGMAS * one["noise"]]
    assert not far, f"further away than {SIGMAS:g} times the noise: {far}"
    return {"killed": who, "newest_step": step, "steps": total, "then_ranks": arguments.then, "compared": compared}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="pairs:100000")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument(
        "--then", type=int, default=3, help="processes of the run that goes on elsewhere; 0: kills alone"
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the kills")
    parser.add_argument("--seeds", type=int, default=3, help="runs by which noise is measured")
    parser.add_argument("--json", help="write the record there")
    parser.add_argument("settings", nargs="*", help="of annsoftmax train, after --")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    settings = ["--task", arguments.task, *arguments.settings]
    print(f"seed {arguments.seed}; annsoftmax train {' '.join(settings)}, on {arguments.ranks} processes", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="kill-test-"))
    try:
        same = test_same(arguments, folder, settings, draw)
        row = {"task": arguments.task, "settings": settings, "ranks": arguments.ranks, "seed": arguments.seed}
        row |= {"kills": same["kills"], "equal_tensors": same["tensors"], "loss": same["whole"]["loss"]}
        if arguments.then:
            row |= test_orphans(arguments, folder, settings, draw)
            row |= test_other(arguments, folder, settings, draw, same["whole"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        records.write_record(
            records.make_record([row]) | {"command": shlex.join(["python", *sys.argv])}, arguments.json
        )
    print(json.dumps({"kills": len(row["kills"]), "equal": True}))


if __name__ == "__main__":
    main()
