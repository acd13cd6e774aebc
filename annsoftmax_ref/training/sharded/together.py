"""What the processes of a group do in step: what one of them finds, all know, its errors too, so that none waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

T = TypeVar("T")


class Together:
    """A group of its own over the processes of ``group``, on the host, so that a checkpoint that is written meanwhile
    sends nothing between the messages of training. group None: one process, and nothing is sent.

    rank, ranks: of this process, and P.
    """

    def __init__(self, group: dist.ProcessGroup | None):
        self.group, self.rank, self.ranks, self.mesh = None, 0, 1, None
        if group is not None:
            members, backend = dist.get_process_group_ranks(group), dist.get_backend(group)
            self.group = dist.new_group(
                members, backend="gloo" if backend == "nccl" else backend, use_local_synchronization=True
            )
            self.rank, self.ranks = dist.get_rank(self.group), dist.get_world_size(self.group)
            self.mesh = DeviceMesh.from_group(self.group, "cpu")

    def gather(self, function: Callable[[], T]) -> list[T]:
        """What function() returns on each process. The first error of any of them is raised on all."""
        result = problem = cause = None
        try:
            result = function()
        except Exception as error:
            problem, cause = _told(error), error
        said = [(result, problem)]
        if self.group is not None:
            said = self._exchanged((result, problem))
        for rank, (_, problem) in enumerate(said):
            if problem is not None:
                _raise(*problem, f"process {rank} of {self.ranks}: " if rank else "", cause)
        return [result for result, _ in said]

    def _exchanged(self, mine) -> list:
        said = [None] * self.ranks
        try:
            dist.all_gather_object(said, mine, group=self.group)
        except RuntimeError as error:
            raise RuntimeError(
                f"process {self.rank} of {self.ranks} has lost another one while a checkpoint was saved or opened; "
                f"start the run again, from the newest one ({str(error).splitlines()[0]})"
            ) from error
        return said

    def each(self, function: Callable[[], T]) -> T:
        """What function() returns here, on all processes or, with the first error of any of them, on none."""
        results = []
        self.gather(lambda: results.append(function()))
        return results[0]

    def first(self, function: Callable[[], T]) -> T:
        """What function() returns on process 0, which alone calls it."""
        return self.gather(function if self.rank == 0 else lambda: None)[0]

    def whole(self, rows: Tensor, num_rows: int) -> Tensor:
        """rows [n, ...], those of this process, as what they are a part of [num_rows, ...]: a DTensor."""
        if self.mesh is None:
            return rows
        shape = torch.Size([num_rows, *rows.shape[1:]])
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(rows.contiguous(), self.mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)

    def close(self) -> None:
        if self.group is not None and dist.get_backend(self.group) == "gloo":  # which has threads and connections
            dist.destroy_process_group(self.group)
        self.group = None


def _told(error: Exception) -> tuple[type[Exception], tuple]:
    """The error as others can raise it: its kind, and arguments of which the last is a sentence."""
    if isinstance(error, OSError):
        return OSError, (error.errno or 0, error.strerror or str(error))
    kind = next((kind for kind in (ValueError, TypeError) if isinstance(error, kind)), None)
    return (RuntimeError, (f"{type(error).__name__}: {error}",)) if kind is None else (kind, (str(error),))


def _raise(kind: type[Exception], arguments: tuple, where: str, cause: Exception | None) -> None:
    raise kind(*arguments[:-1], where + arguments[-1]) from cause
