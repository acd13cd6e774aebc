"""Processes as threads: the same collectives, without starting anything."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.testing._internal.distributed import multi_threaded_pg as threaded


def on_ranks(ranks: int, function: Callable, timeout: float = 60.0) -> list:
    """function(rank, group) in so many threads, each of which is a process of a group -> what each returned.

    The first error of a thread is raised here, the others' waits broken off.
    """
    threaded._install_threaded_pg()
    torch._C._distributed_c10d._set_thread_isolation_mode(True)
    try:
        return _run(ranks, function, timeout)
    finally:
        torch._C._distributed_c10d._set_thread_isolation_mode(False)
        threaded.ProcessLocalGroup.reset()
        threaded._uninstall_threaded_pg()


def _run(ranks: int, function: Callable, timeout: float) -> list:
    store, results, errors = dist.HashStore(), [None] * ranks, [None] * ranks

    def work(rank: int) -> None:
        try:
            dist.init_process_group("threaded", rank=rank, world_size=ranks, store=store)
            results[rank] = function(rank, dist.group.WORLD)
        except BaseException as error:  # handed on to the test
            errors[rank] = error
            threaded.ProcessLocalGroup.exception_handle(error)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()

    threads = [threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
    alive = [rank for rank, thread in enumerate(threads) if thread.is_alive()]
    first = next((error for error in errors if error is not None and not isinstance(error, SystemExit)), None)
    if first is not None:
        raise first
    if alive:
        raise TimeoutError(f"ranks {alive} still wait after {timeout:g} s")
    return results
