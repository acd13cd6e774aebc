"""A plan of torch.distributed.checkpoint is read, and what else its file may hold is not run."""

import pickle

import pytest
import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from annsoftmax_ref.training.sharded.metadata import NAME, read_metadata
from annsoftmax_ref.training.sharded.tensors import write_tensors
from annsoftmax_ref.training.sharded.together import Together

KINDS = ["float64", "float32", "bfloat16", "float8_e4m3fn", "int8", "uint8", "int32", "int64", "bool"]
planted = []


class Planted:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def folder(tmp_path):
    write_tensors({kind: torch.zeros(3, 2).to(getattr(torch, kind)) for kind in KINDS}, tmp_path, Together(None))
    return tmp_path


def test_a_plan_of_every_kind_of_tensor_is_read_as_torch_reads_it(folder):
    ours, theirs = read_metadata(folder, {"__0_0.distcp"}), FileSystemReader(folder).read_metadata()
    assert ours.state_dict_metadata == theirs.state_dict_metadata and len(ours.state_dict_metadata) == len(KINDS)
    assert ours.storage_data == theirs.storage_data
    assert str(folder) not in (folder / NAME).read_bytes().decode("latin-1")  # it may be moved, and tells of nobody


@pytest.mark.parametrize("call", [(planted.append, 1), (exec, "1 / 0"), (getattr, "text", "upper"), (torch.load, "x")])
@pytest.mark.parametrize("where", ["alone", "inside"])
def test_planted_code_is_not_run(call, where, folder):
    plan = FileSystemReader(folder).read_metadata()
    plan.planner_data = Planted(*call)
    (folder / NAME).write_bytes(pickle.dumps(Planted(*call) if where == "alone" else plan))
    with pytest.raises(
        ValueError, match="folder is .*, whose .metadata is broken or not that of a checkpoint.*it names"
    ):
        read_metadata(folder, {"__0_0.distcp"})
    assert planted == []


def test_files_that_nobody_has_looked_at_are_not_read(folder):
    with pytest.raises(ValueError, match="is in '__0_0.distcp'"):
        read_metadata(folder, {"__1_0.distcp"})


@pytest.mark.parametrize("thing", [{}, None, Metadata({"x": BytesStorageMetadata()}, storage_data={})])
def test_other_things_are_refused(thing, folder):
    (folder / NAME).write_bytes(pickle.dumps(thing))
    with pytest.raises(ValueError, match="whose .metadata is broken"):
        read_metadata(folder, set())


def test_a_broken_file_is_refused_wherever_it_ends(folder):
    whole = (folder / NAME).read_bytes()
    for end in range(0, len(whole), 97):
        (folder / NAME).write_bytes(whole[:end])
        with pytest.raises(ValueError, match="whose .metadata is broken"):
            read_metadata(folder, {"__0_0.distcp"})
