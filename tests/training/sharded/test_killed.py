"""A process is killed while it saves: what was saved before is there, and nothing else; its peers do not wait."""

import itertools
import multiprocessing
import os
import signal

import pytest
from sharded_runs import all_of, die, differences, new_run, one_of_two, train

from annsoftmax_ref.training.sharded import Checkpoints, shelf, tensors


def die_before(path, target):
    if path.name.startswith("step_"):
        die()
    os.rename(path, target)


def die_after(path, target):
    os.rename(path, target)
    if path.name.startswith("step_"):
        die()


# Where a save is when the process dies, and which step is then the newest.
PHASES = {
    "before a file is begun": (shelf, "write_tensors", die, 3),
    "before the plan is written": (tensors._Writer, "finish", die, 3),
    "before hashes are made": (shelf, "fingerprint", die, 3),
    "before the manifest is written": (shelf, "write_manifest", die, 3),
    "before the folder has its name": (shelf.Path, "rename", die_before, 3),
    "before older ones go": (shelf.Path, "rename", die_after, 4),
}
QUICK = {("before hashes are made", True), ("before the folder has its name", False)}


def save_and_die(folder, place, name, how, wait) -> None:
    run = new_run()
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.load(run)
        setattr(place, name, how)
        checkpoints.save(4, run, {"step": 4}, wait=wait)
        checkpoints.wait()


@pytest.mark.parametrize(
    "phase, wait",
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in itertools.product(PHASES, (True, False))
    ],
)
def test_killed_in_any_phase_the_newest_whole_step_opens(phase, wait, tmp_path):
    *how, newest = PHASES[phase]
    run = new_run()
    train(run, 0, 3)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(3, run, {"step": 3})
    child = multiprocessing.get_context("fork").Process(target=save_and_die, args=(tmp_path, *how, wait))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.latest() == newest
        again = new_run()
        assert checkpoints.load(again) == {"step": newest}
        assert differences(all_of(run), all_of(again)) == []
        checkpoints.save(5, again, {})  # the lock has died with its owner
    assert sorted(os.listdir(tmp_path)) == [".lock", "step_00000005"]


@pytest.mark.parametrize("kill, wait", [(0, True), (1, False)])
def test_the_peer_of_a_killed_process_raises_and_any_number_goes_on(kill, wait, tmp_path):
    # Not forked from here: torch takes no backward pass where it has had threads for one, as after some other tests.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sharded_runs"])
    said = context.SimpleQueue()
    children = [context.Process(target=one_of_two, args=(rank, tmp_path, kill, wait, said)) for rank in (0, 1)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [-signal.SIGKILL if rank == kill else 0 for rank in (0, 1)]
    seconds, sentence = said.get()
    assert seconds < 20 and f"process {1 - kill} of 2 has lost another one while a checkpoint was saved" in sentence
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.latest() == 3
        run = new_run()
        assert checkpoints.load(run) == {"step": 3}
        train(run, 3, 4)
        checkpoints.save(4, run, {})
    assert not list((tmp_path / "run").glob("*.tmp"))
