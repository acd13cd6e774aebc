"""The processes of a run: one, or those that torchrun has started; how they begin, tell of errors, and end together."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from annsoftmax_ref.machine.device import find_device

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # that torchrun gives its processes
LOST = ("connection closed", "connection reset", "connection refused", "broken pipe", "timed out", "nccl", "gloo")
TELLING = timedelta(seconds=5)
TOLD = "annsoftmax/told"  # how many processes have had something to tell
PATIENCE = 2.0  # seconds


@dataclass(frozen=True)
class World:
    """rank: of this one. ranks: how many there are. group: of torch.distributed, None for one process."""

    rank: int
    ranks: int
    device: torch.device
    group: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def are_launched() -> bool:
    """Whether torchrun, or what sets the same variables, has started this process as one of several."""
    return all(name in os.environ for name in VARIABLES) and int(os.environ["WORLD_SIZE"]) > 1


def rank_here() -> int:
    return int(os.environ["RANK"]) if are_launched() else 0


@contextlib.contextmanager
def joined(device: str = "auto", timeout: float = 300.0) -> Iterator[World]:
    """The processes that torchrun has started, as a group (gloo on CPUs, NCCL on GPUs), until the block ends.

    device: as ``find_device``'s; each process has a GPU of its own, by its number on its machine. timeout: seconds
    after which a process that waits for another one gives up. A group that is there already, made by Ray Train for
    instance, is taken as it is, and stays. Raises ValueError for a machine with too few GPUs, and ConnectionError, in
    the place of what the backends raise, where another process has ended.
    """
    place = find_device(device)
    there = dist.is_available() and dist.is_initialized()
    try:
        if there:
            yield _of_group(torch.device("cuda", torch.cuda.current_device()) if place.type == "cuda" else place)
        elif are_launched():
            yield _begin(place, timedelta(seconds=timeout))
        else:
            yield World(0, 1, place)
    except RuntimeError as error:
        if not _tells_of_a_lost_process(error):
            raise
        raise ConnectionError(
            f"process {rank_here()} of {os.environ.get('WORLD_SIZE', 'several')} has lost another one, which has ended "
            f"or has not answered for {timeout:g} s; start all of them again, with --resume"
        ) from error
    finally:
        if not there and dist.is_initialized():
            dist.destroy_process_group()


def _begin(place: torch.device, wait: timedelta) -> World:
    """The group of those that torchrun has started."""
    if place.type == "cuda":
        place = _own_gpu(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
    ranks = int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, store=_store(), rank=rank_here(), world_size=ranks, timeout=wait)
    return _of_group(place)


def _of_group(place: torch.device) -> World:
    ranks = dist.get_world_size()
    return World(dist.get_rank(), ranks, place, dist.group.WORLD if ranks > 1 else None)


def tell_once(sentence: str) -> None:
    """A line on standard error, by the first process that has one to tell: the others have the same trouble."""
    if _is_first_to_tell():
        print(sentence, file=sys.stderr, flush=True)


def _is_first_to_tell() -> bool:
    if not are_launched():
        return True
    try:
        before = _store().add(TOLD, 1)
        if rank_here() == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            _outlast_the_others()
        return before == 1
    except (RuntimeError, ValueError, OSError):  # where the store has ended, too, better twice than not at all
        return True


def _outlast_the_others() -> None:
    """The store is this process's and ends with it: let the others, who have the same trouble, ask it first."""
    end = time.monotonic() + PATIENCE
    while _store().add(TOLD, 0) < int(os.environ["WORLD_SIZE"]) and time.monotonic() < end:
        time.sleep(0.05)


@functools.cache
def _store() -> dist.Store:
    """Keys and values that all processes see."""
    store, _, _ = next(dist.rendezvous("env://", timeout=TELLING))
    return store


def _own_gpu(number: int) -> torch.device:
    count = torch.cuda.device_count()
    if number >= count:
        raise ValueError(
            f"device is cuda, and this machine has more processes than its {count} GPUs; --nproc-per-node should be "
            f"at most {count}"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _tells_of_a_lost_process(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(words in text for words in LOST)
