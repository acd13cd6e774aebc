"""A process is killed while it saves: what was saved before is there, and nothing else; its peers do not wait."""

import itertools
import multiprocessing
import os
import signal
import time

import pytest
import torch.distributed as dist
from sharded_runs import all_of, differences, new_run, train

from annsoftmax_ref.training.sharded import Checkpoints, shelf, tensors

# Where a save is when the process dies, and which step is then the newest.
PHASES = {
    "before a file is begun": (shelf, "write_tensors", 3),
    "before the plan is written": (tensors._Writer, "finish", 3),
    "before hashes are made": (shelf, "fingerprint", 3),
    "before the manifest is written": (shelf, "write_manifest", 3),
    "before the folder has its name": (shelf.Path, "rename", 3),
    "before older ones go": (Checkpoints, "_remove", 4),
}


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def save_and_die(folder, place, name, wait) -> None:
    run = new_run()
    with Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.load(run)
        setattr(place, name, die)
        checkpoints.save(4, run, {"step": 4}, wait=wait)
        checkpoints.wait()


QUICK = {("before hashes are made", True), ("before the folder has its name", False)}


@pytest.mark.parametrize(
    "phase, wait",
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in itertools.product(PHASES, (True, False))
    ],
)
def test_killed_in_any_phase_the_newest_whole_step_opens(phase, wait, tmp_path):
    place, name, newest = PHASES[phase]
    run = new_run()
    train(run, 0, 3)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(3, run, {"step": 3})
    child = multiprocessing.get_context("fork").Process(target=save_and_die, args=(tmp_path, place, name, wait))
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


def one_of_two(rank, folder, kill, wait, said) -> None:
    """Saves step 3; then process ``kill`` dies in the middle of saving step 4, and the other says what became of it."""
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    run = new_run(group=dist.group.WORLD)
    train(run, 0, 3, rank)
    checkpoints = Checkpoints(folder / "run", dist.group.WORLD)
    checkpoints.save(3, run, {"step": 3}, wait=wait)
    train(run, 3, 4, rank)  # while it is saved
    checkpoints.load(run)
    train(run, 3, 4, rank)
    if rank == kill:
        tensors._Writer.write_data = die
    start = time.monotonic()
    try:
        checkpoints.save(4, run, {"step": 4}, wait=wait)
        checkpoints.wait()
    except RuntimeError as error:
        said.put((time.monotonic() - start, str(error)))
    os._exit(0)  # the group is broken, and would wait for the dead at the end


@pytest.mark.parametrize("kill, wait", [(0, True), (1, False)])
def test_the_peer_of_a_killed_process_raises_and_any_number_goes_on(kill, wait, tmp_path):
    context = multiprocessing.get_context("fork")
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
