"""A disk that is full, a folder that cannot be written: a sentence on all processes, and the steps before it stay."""

import errno
import resource

import pytest
from ranks import on_ranks
from sharded_runs import new_run

from annsoftmax_ref.training.sharded import Checkpoints, shelf, tensors


@pytest.mark.parametrize("wait", [True, False])
def test_a_full_disk_leaves_the_steps_before_it(wait, saved):
    """As the kernel says it: no file may be longer than a kilobyte."""
    run, (_, most) = new_run(), resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(saved) as checkpoints:
        checkpoints.load(run)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
            with pytest.raises(ValueError, match="folder is .*, which cannot be written .*; make room or name another"):
                checkpoints.save(5, run, {}, wait=wait)
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        assert checkpoints.latest() == 4 and not list(saved.glob("*.tmp"))
        checkpoints.save(5, run, {}, wait=wait)
        checkpoints.wait()
        assert checkpoints.latest() == 5


PHASES = [(shelf.Path, "mkdir"), (tensors._Writer, "write_data"), (shelf, "fingerprint"), (shelf, "write_manifest")]


@pytest.mark.parametrize("place, name", PHASES)
def test_a_disk_that_is_full_for_one_process_is_so_for_all(place, name, saved, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def save(rank, group):
        run = new_run(group=group)
        with Checkpoints(saved, group) as checkpoints:
            checkpoints.load(run)
            checkpoints.claim()
            if rank == 0:
                monkeypatch.setattr(place, name, full)
            with pytest.raises(ValueError) as caught:
                checkpoints.save(5, run, {})
            return str(caught.value), checkpoints.latest()

    said = on_ranks(2, save)
    assert said[0] == said[1] and said[0][1] == 4
    assert "which cannot be" in said[0][0] and "No space left on device" in said[0][0]
    assert not list(saved.glob("*.tmp"))


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with (
            Checkpoints(folder) as checkpoints,
            pytest.raises(ValueError, match=f"folder is {folder}, which cannot be"),
        ):
            checkpoints.claim()

    def denied(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(shelf.os, "open", denied)  # root may write anywhere
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="cannot be written .Permission denied"):
        checkpoints.claim()
