"""Tensors to files and back by torch.distributed.checkpoint: each process writes its part, and reads what it needs.

The planners and the file format are torch's; what they have to tell each other goes by ``Together``, so that an error
of one process is raised on all, and reading needs no messages at all.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata

from annsoftmax_ref.training.sharded.together import Together


class _Writer(FileSystemWriter):
    def storage_meta(self) -> None:
        """Nothing of where the files lay when they were written."""


def write_tensors(tensors: dict[str, Tensor], folder: Path, together: Together) -> None:
    """Tensors by name, DTensors among them, into files of the folder, which is there; for all processes to call.

    Of a name that several processes have, one of them writes its tensor. Files are on the disk when it returns.
    """
    planner, writer = DefaultSavePlanner(flatten_state_dict=False), _Writer(folder)
    is_first = together.rank == 0
    planner.set_up_planner(tensors, is_coordinator=is_first)
    writer.set_up_storage_writer(is_first)
    plans = together.gather(lambda: writer.prepare_local_plan(planner.create_local_plan()))
    plans, metadata = planner.create_global_plan(plans)  # the same on all processes
    plan = planner.finish_plan(writer.prepare_global_plan(plans)[together.rank])
    results = together.gather(lambda: writer.write_data(plan, planner).wait())
    together.first(lambda: writer.finish(metadata, results))


def read_tensors(targets: dict[str, Tensor], folder: Path, metadata: Metadata) -> None:
    """Into targets by name, DTensors among them, what the folder has of them."""
    planner, reader = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False), None
    reader = FileSystemReader(folder)
    planner.set_up_planner(targets, metadata, is_coordinator=True)
    reader.set_up_storage_reader(metadata, True)
    plan = reader.prepare_local_plan(planner.create_local_plan())
    reader.read_data(planner.finish_plan(plan), planner).wait()
