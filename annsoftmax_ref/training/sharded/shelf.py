"""A folder of checkpoints: each whole or not there, the newest kept, one writer at a time.

``step_00000120.tmp`` is written, with all of it on the disk, and renamed to ``step_00000120``. What is killed on the
way leaves a folder that ends in .tmp, which nobody reads and the next writer removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from annsoftmax_ref.checks import check_from_0, check_positive_int
from annsoftmax_ref.training.sharded.manifest import (
    NAME,
    check_file,
    check_plain,
    check_run,
    fingerprint,
    read_manifest,
    write_manifest,
)
from annsoftmax_ref.training.sharded.metadata import NAME as METADATA
from annsoftmax_ref.training.sharded.metadata import read_metadata
from annsoftmax_ref.training.sharded.state import TrainingState
from annsoftmax_ref.training.sharded.tensors import read_tensors, write_tensors
from annsoftmax_ref.training.sharded.together import Together

WHOLE = re.compile(r"step_(\d{8,})")


class Checkpoints:
    """Checkpoints of a run in a folder that all of its processes see; every method is for all of them to call.

    group: the processes, those that a head's classes are split over if they are; None: one process, without
    torch.distributed. keep: so many of the newest stay. Raises ValueError, the same on all processes, with nothing
    changed. ``claim`` may be called before training, to learn early that the folder cannot be written; the first save
    does it too. Close it, or use it in a ``with``.
    """

    def __init__(self, folder: str | os.PathLike, group: ProcessGroup | None = None, keep: int = 2):
        self.folder, self.keep = Path(folder), check_positive_int("keep", keep)
        self._together = Together(group)
        self._lock: int | None = None
        self._claimed = False
        self._executor: ThreadPoolExecutor | None = None
        self._in_flight: Future | None = None

    def claim(self) -> None:
        """Be the folder's only writer until ``close``, and remove what earlier ones left unfinished."""
        if not self._claimed:
            self._together.first(self._take_lock)
            self._claimed = True

    def save(self, step: int, state: TrainingState, position: dict, wait: bool = True) -> None:
        """Write the state after ``step`` steps, and where the run is in its data.

        wait=False copies it, and writes while training goes on; one such save is in flight at a time, and its error is
        raised by the next ``save`` or ``wait``. Steps after this one are those of a run that went back, and go.
        """
        self.wait()
        self._together.each(lambda: self._check_split(state))
        content = self._together.first(lambda: self._content(step, state, position))
        self.claim()
        state.bring_up_to_date()
        tensors = self._together.each(lambda: state.tensors(self._together))
        if wait:
            self._write(step, tensors, content)
            return
        copies = {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}
        self._executor = self._executor or ThreadPoolExecutor(1, "checkpoint")
        self._in_flight = self._executor.submit(self._write, step, copies, content)

    def latest(self) -> int | None:
        """The newest step that is there."""
        return self._together.first(lambda: max(self._steps(), default=None))

    def load(self, state: TrainingState, step: int | None = None) -> dict:
        """Make that step's state (default: the newest) the state of this run -> its position."""
        self.wait()
        together = self._together
        folder, content = together.first(lambda: self._open(state, step))
        files, same_ranks = content["files"], content["ranks"] == together.ranks
        names = sorted(files)[together.rank :: together.ranks]
        together.gather(lambda: [check_file(folder, name, files[name]) for name in names])
        metadata = together.each(lambda: self._checked(folder, content, state))
        read = together.each(lambda: self._read(folder, metadata, state))
        state.put(read, content, content["step"], together, same_ranks)
        return content["position"]

    def wait(self) -> None:
        """Until nothing is being written; its error is raised here."""
        if self._in_flight is not None:
            pending, self._in_flight = self._in_flight, None
            pending.result()

    def close(self) -> None:
        """Wait, and let others write to the folder."""
        try:
            self.wait()
        finally:
            if self._executor is not None:
                self._executor.shutdown()
            if self._lock is not None:
                os.close(self._lock)
            self._lock, self._claimed, self._executor = None, False, None
            self._together.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _content(self, step: int, state: TrainingState, position: dict) -> dict:
        """The manifest but for the files."""
        content = {
            "torch": torch.__version__,
            **state.run,
            "ranks": self._together.ranks,
            "step": check_from_0("step", step),
            "position": position,
            **state.numbers(),
        }
        for name in ("settings", "position", "scheduler"):
            check_plain(name, content[name])
        return content

    def _check_split(self, state: TrainingState) -> None:
        shards = getattr(state.head, "shards", None)
        ranks = 1 if shards is None else shards.ranks
        if ranks != self._together.ranks or (shards is not None and shards.rank != self._together.rank):
            raise ValueError(
                f"group has {self._together.ranks} processes and the head's classes are split over {ranks}; it should "
                "be the head's process_group"
            )

    def _write(self, step: int, tensors: dict[str, Tensor], content: dict) -> None:
        together, whole = self._together, self.folder / f"step_{step:08d}"
        unfinished = whole.with_name(whole.name + ".tmp")
        parts = {
            name: together.whole(value, content["classes"]) if name.startswith("rows/") else value
            for name, value in tensors.items()
        }
        try:
            together.first(lambda: self._begin(unfinished))
            with self._disk("written"):
                write_tensors(parts, unfinished, together)
            prints = together.gather(lambda: self._prints(unfinished))
            files = {name: value for part in prints for name, value in part.items()}
            together.first(lambda: self._finish(unfinished, whole, content | {"files": files}))
        except BaseException:
            if together.rank == 0:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def _begin(self, unfinished: Path) -> None:
        with self._disk("written"):
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()

    def _prints(self, folder: Path) -> dict[str, list]:
        """Of the files that this process has written."""
        mine = [*folder.glob(f"__{self._together.rank}_*"), *([folder / METADATA] if self._together.rank == 0 else [])]
        with self._disk("read"):
            return {path.name: fingerprint(path) for path in mine}

    def _finish(self, unfinished: Path, whole: Path, content: dict) -> None:
        with self._disk("written"):
            write_manifest(unfinished, content)
            _flush_folder(unfinished)
            if whole.exists():  # saved before, by a run that went back
                self._remove(whole)
            unfinished.rename(whole)
            _flush_folder(self.folder)
        step = content["step"]
        kept = sorted(s for s in self._steps() if s <= step)[-self.keep :]
        for path in self._steps_and_folders().items():
            if path[0] not in kept:
                self._remove(path[1])

    def _remove(self, whole: Path) -> None:
        """Under a name that nobody reads, so that it is never seen half removed."""
        going = whole.with_name(whole.name + ".old.tmp")
        shutil.rmtree(going, ignore_errors=True)
        whole.rename(going)
        shutil.rmtree(going, ignore_errors=True)

    def _steps_and_folders(self) -> dict[int, Path]:
        if not self.folder.is_dir():
            return {}
        found = ((WHOLE.fullmatch(path.name), path) for path in self.folder.iterdir())
        return {int(match[1]): path for match, path in found if match and (path / NAME).is_file()}

    def _steps(self) -> list[int]:
        return sorted(self._steps_and_folders())

    def _open(self, state: TrainingState, step: int | None) -> tuple[Path, dict]:
        folders = self._steps_and_folders()
        if not folders or (step is not None and step not in folders):
            wanted = "no whole checkpoint" if step is None else f"no whole checkpoint of step {step}"
            raise ValueError(
                f"folder is {self.folder}, which has {wanted} (steps there: {sorted(folders)}); name another one"
            )
        folder = folders[max(folders) if step is None else step]
        content = read_manifest(folder)
        check_run(folder, content, state.run)
        return folder, content

    def _checked(self, folder: Path, content: dict, state: TrainingState):
        self._check_split(state)
        metadata = read_metadata(folder, set(content["files"]))
        try:
            state.check(content, metadata, self._together, content["ranks"] == self._together.ranks)
        except ValueError as error:
            raise ValueError(f"folder is {folder}, which is of another run: {error}") from error
        return metadata

    def _read(self, folder: Path, metadata, state: TrainingState) -> dict[str, Tensor]:
        """Into memory of its own: whatever goes wrong, the run's is as it was."""
        empty, total = state.targets(metadata, self._together), state.head.num_classes
        targets = {
            name: self._together.whole(value, total) if name.startswith("rows/") else value
            for name, value in empty.items()
        }
        read_tensors(targets, folder, metadata)
        return empty

    def _take_lock(self) -> None:
        with self._disk("written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise ValueError(
                f"folder is {self.folder}, which another run is writing to; wait for its end, or name another folder"
            ) from error
        self._lock = lock
        for left in self.folder.glob("step_*.tmp"):
            shutil.rmtree(left, ignore_errors=True)

    @contextlib.contextmanager
    def _disk(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ValueError(
                f"folder is {self.folder}, which cannot be {what} ({error.strerror}); make room or name another folder"
            ) from error


def _flush_folder(folder: Path) -> None:
    """Its entries onto the disk: that of a file that was written or renamed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
