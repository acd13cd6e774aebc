"""The folder of checkpoints: whole or not there, one writer, and every fault a sentence with nothing changed."""

import errno
import json
import os
import pickle
import resource
import shutil

import pytest
from ranks import on_ranks
from sharded_runs import all_of, differences, new_run, train
from torch.distributed.checkpoint import FileSystemReader

from annsoftmax_ref.training.sharded import Checkpoints, shelf, tensors
from annsoftmax_ref.training.sharded.manifest import NAME, fingerprint, write_manifest


@pytest.fixture
def saved(tmp_path):
    """A folder with the steps 3 and 4 of a run on two processes."""

    def save(rank, group):
        run = new_run(group=group)
        with Checkpoints(tmp_path, group) as checkpoints:
            for step in (3, 4):
                train(run, step, step + 1, rank)
                checkpoints.save(step, run, {"step": step})

    on_ranks(2, save)
    return tmp_path


def refused(folder, ranks=2, step=None, **options) -> str:
    """The sentence with which loading is refused, the same on all processes, and nothing is changed."""

    def load(rank, group):
        run = new_run(group=group, **options)
        train(run, 0, 1, rank)
        before = all_of(run, group)
        with Checkpoints(folder, group) as checkpoints:
            with pytest.raises(ValueError) as caught:
                checkpoints.load(run, step)
            assert differences(before, all_of(run, group)) == []
            return str(caught.value)

    said = on_ranks(ranks, load)
    assert len(set(said)) == 1
    return said[0]


def newest(folder):
    return folder / "step_00000004"


def test_the_newest_are_kept_and_any_may_be_opened(saved):
    def look(rank, group):
        with Checkpoints(saved, group, keep=2) as checkpoints:
            assert checkpoints.latest() == 4
            run = new_run(group=group)
            assert checkpoints.load(run, 3) == {"step": 3} and checkpoints.load(run) == {"step": 4}
            checkpoints.save(7, run, {})
            return checkpoints.latest(), sorted(os.listdir(saved))

    assert on_ranks(2, look) == [(7, [".lock", "step_00000004", "step_00000007"])] * 2


def test_a_run_that_goes_back_leaves_nothing_of_the_time_after(saved):
    def go_back(rank, group):
        with Checkpoints(saved, group) as checkpoints:
            run = new_run(group=group)
            checkpoints.load(run, 3)
            checkpoints.save(3, run, {"again": True})  # in the place of that step
            assert checkpoints.load(run) == {"again": True}
            checkpoints.save(4, run, {})
            return sorted(os.listdir(saved))

    assert on_ranks(2, go_back) == [[".lock", "step_00000003", "step_00000004"]] * 2


def test_an_empty_or_missing_folder_has_no_step(tmp_path):
    with Checkpoints(tmp_path / "not there") as checkpoints:
        assert checkpoints.latest() is None
    assert "has no whole checkpoint (steps there: []); name another one" in refused(tmp_path)


def test_a_step_that_is_not_there_is_refused(saved):
    assert "has no whole checkpoint of step 5 (steps there: [3, 4])" in refused(saved, step=5)


@pytest.mark.parametrize("name", ["__0_0.distcp", "__1_0.distcp", ".metadata"])
def test_a_flipped_bit_a_cut_a_missing_and_a_swapped_file_are_refused(name, saved):
    path = newest(saved) / name
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 4
    path.write_bytes(changed)
    assert f"folder is {newest(saved)}, whose {name} has been changed since it was written" in refused(saved)
    path.write_bytes(whole[:-10])
    assert f"whose {name} has {len(whole) - 10} bytes and should have {len(whole)}; do not use it" in refused(saved)
    if name != ".metadata":  # which is the same in both
        path.write_bytes((saved / "step_00000003" / name).read_bytes())
        assert f"whose {name} has been changed" in refused(saved)
    path.unlink()
    assert f"whose {name} cannot be read (No such file or directory)" in refused(saved)
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.load(new_run(), 3) == {"step": 3}


def test_code_in_the_plan_is_not_run_even_if_the_manifest_agrees(saved):
    plan, made = FileSystemReader(newest(saved)).read_metadata(), saved / "made"
    plan.planner_data = Planted(made)
    (newest(saved) / ".metadata").write_bytes(pickle.dumps(plan))
    content = json.loads((newest(saved) / NAME).read_text())
    content["files"][".metadata"] = fingerprint(newest(saved) / ".metadata")
    content.pop("digest")
    write_manifest(newest(saved), content)
    assert "it names posix.mkdir" in refused(saved)
    assert not made.exists()


class Planted:
    def __init__(self, made):
        self.made = made

    def __reduce__(self):
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"num_classes": 11}, "its classes is 10 and should be 11"),
        ({"rate": 1}, "its rate is 'not there' and should be 1"),
        ({"selector": "random"}, "head.selector.cursor, which this run has not"),
        ({"bias": False}, "it has rows/head.bias, which this run has not"),
        ({"optimizer": "adamw"}, "its optimizers"),
    ],
)
def test_another_run_is_refused(options, sentence, saved):
    assert sentence in refused(saved, **options)
    assert f"folder is {newest(saved)}, which is of another run: " in refused(saved, ranks=3, **options)


def test_a_folder_of_a_later_format_is_refused(saved):
    content = json.loads((newest(saved) / NAME).read_text()) | {"format": 2}
    (newest(saved) / NAME).write_text(json.dumps(content))
    assert "update annsoftmax" in refused(saved)


def test_what_was_left_unfinished_is_not_seen_and_goes_with_the_next_writer(saved):
    shutil.copytree(newest(saved), saved / "step_00000009.tmp")
    (saved / "step_00000008").mkdir()  # somebody's, without a manifest
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.latest() == 4 and (saved / "step_00000009.tmp").exists()
        checkpoints.claim()
        assert not (saved / "step_00000009.tmp").exists()
        assert checkpoints.latest() == 4


def test_a_second_writer_is_refused_until_the_first_has_closed(tmp_path):
    def write(rank, group, folder):
        run = new_run(group=group)
        with Checkpoints(folder, group) as first, Checkpoints(folder, group) as second:
            first.save(1, run, {})
            for attempt in (second.claim, lambda: second.save(2, run, {})):
                with pytest.raises(ValueError, match="which another run is writing to; wait for its end, or name ano"):
                    attempt()
            assert second.latest() == 1 and second.load(run) == {}  # who only reads is let in
            first.close()
            second.save(2, run, {})
            return second.latest()

    assert write(0, None, tmp_path / "one") == 2
    assert on_ranks(2, lambda rank, group: write(rank, group, tmp_path / "two")) == [2, 2]


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


def test_saving_meanwhile_saves_what_was_then(tmp_path):
    run = new_run()
    train(run, 0, 3)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, run, {"step": 3}, wait=False)
        then = all_of(run)
        train(run, 3, 6)
        checkpoints.save(6, run, {"step": 6}, wait=False)  # waits for the one before it
        assert (tmp_path / "step_00000003").exists()
        checkpoints.wait()
        resumed = new_run()
        checkpoints.load(resumed, 3)
        assert differences(then, all_of(resumed)) == []


def test_an_error_of_a_save_meanwhile_is_raised_by_the_next_call(tmp_path, monkeypatch):
    run, saves = new_run(), Checkpoints(tmp_path)
    saves.claim()
    monkeypatch.setattr(shelf, "write_manifest", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    saves.save(1, run, {}, wait=False)
    with pytest.raises(ValueError, match="cannot be written .full."):
        saves.save(2, run, {})
    saves.wait()  # told once
    monkeypatch.undo()
    saves.save(2, run, {})
    assert saves.latest() == 2
    saves.close()


@pytest.mark.parametrize(
    "arguments, kind, sentence",
    [
        ((-1, {}), ValueError, "step"),
        ((1.5, {}), TypeError, "step"),
        ((1, {3: 4}), ValueError, "position should be of numbers, texts"),
    ],
)
def test_bad_arguments_change_nothing(arguments, kind, sentence, tmp_path):
    step, position = arguments
    with Checkpoints(tmp_path / "new") as checkpoints, pytest.raises(kind, match=sentence):
        checkpoints.save(step, new_run(), position)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(tmp_path, keep=0)


def test_a_group_that_is_not_the_heads_is_refused(tmp_path):
    def save(rank, group):
        with (
            Checkpoints(tmp_path / str(rank)) as alone,
            pytest.raises(ValueError, match="should be the head's process_gr"),
        ):
            alone.save(1, new_run(group=group), {})
        with (
            Checkpoints(tmp_path, group) as both,
            pytest.raises(ValueError, match="split over 1; it should be the head"),
        ):
            both.save(1, new_run(), {})

    on_ranks(2, save)


def test_a_parameter_of_nobodys_is_refused(tmp_path):
    run = new_run()
    run.optimizers["backbone"].add_param_group({"params": [new_run().model.weight]})
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(ValueError, match="neither the model's nor the head's"):
        checkpoints.save(1, run, {})
