"""experiments/jobs.py: a job is described by a file or by flags, and what is wrong with it is told at once."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks

from annsoftmax_ref import RowAdamW, RowSGD
from annsoftmax_ref.experiments.jobs import Job, Told, make_trainer, read_config, run_job
from annsoftmax_ref.machine.processes import World
from annsoftmax_ref.training import default_recipe

HERE = World(0, 1, torch.device("cpu"))


def test_a_file_has_the_keys_of_a_job(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('task = "pairs:100"\nsave-every = 5\nlr = 1\n[options]\nnprobe = 2\n')
    job = Job(**read_config(path))
    assert (job.task, job.save_every, job.lr, job.options) == ("pairs:100", 5, 1.0, {"nprobe": 2})


@pytest.mark.parametrize(
    "content, words",
    [
        (b"learning = 1", "has the key 'learning'; keys are task, head"),
        (b"task = ", "cannot be read as TOML"),
        (b"\xff\xfe", "cannot be read as TOML"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, content, words):
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"config is .*run.toml, which {words}"):
        read_config(path)
    with pytest.raises(ValueError, match="which cannot be read as TOML .No such file"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "fields, error, words",
    [
        ({"epochs": "four"}, TypeError, "epochs is 'four'; it should be a whole number"),
        ({"epochs": 0}, ValueError, "epochs is 0; it should be .*at least 1"),
        ({"seed": True}, TypeError, "seed is True; it should be a whole number"),
        ({"rate": "0.1"}, TypeError, "rate is '0.1'; it should be a number"),
        ({"augment": 1}, TypeError, "augment is 1; it should be true or false"),
        ({"head": "nope"}, ValueError, "head is 'nope'; it should be one of full"),
        ({"storage": "fp4"}, ValueError, "storage is 'fp4'; it should be one of fp32"),
        ({"resume": True}, ValueError, "resume is True but checkpoints is not given"),
        ({"storage": "fp8_int8", "optimizer": "adamw"}, ValueError, "with the optimizer adamw"),
        ({"timeout": 0}, ValueError, "timeout is 0; it should be above 0"),
        ({"options": [1]}, TypeError, "options is .1.; it should be a table"),
    ],
)
def test_a_job_that_cannot_be_is_refused(fields, error, words):
    with pytest.raises(error, match=words):
        Job(**fields)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"options": {"probes": 3}}, "options has 'probes', and the head ann has grouping, nlist, nprobe"),
        ({"head": "full", "options": {"nprobe": 3}}, "options has 'nprobe', and the head full has none"),
        ({"rate": 2.0}, "rate is 2"),
        ({"task": "glyph"}, "task is 'glyph'; it should be"),
    ],
)
def test_what_its_parts_refuse_is_told_before_data_are_loaded(fields, words):
    with pytest.raises(ValueError, match=words):
        make_trainer(Job(**fields), HERE)


def test_the_recipe_is_that_of_the_objective_but_for_what_is_given():
    assert Job(objective="arcface").recipe() == default_recipe("arcface")
    given = Job(lr=0.1, batch=8, epochs=2, steps=3, scale=5, margin=0.2, warmup=0.5, weight_decay=0.1, augment=False)
    recipe = given.recipe()
    assert dataclasses.astuple(recipe) == dataclasses.astuple(
        dataclasses.replace(
            default_recipe(),
            lr=0.1,
            batch_size=8,
            epochs=2,
            steps_per_epoch=3,
            scale=5.0,
            margin=0.2,
            warmup=0.5,
            weight_decay=0.1,
            augmentation=None,
        )
    )
    assert Job(optimizer="adamw").recipe().lr < 0.01 and Job(optimizer="adamw", lr=0.5).recipe().lr == 0.5
    assert Job(storage="fp8_int8").recipe().momentum_in_8_bits


def test_a_run_that_too_many_broken_files_ended_goes_on_with_a_larger_skip():
    one, other = Job(task="folder:a,skip=1,colour"), Job(task="folder:a,colour,skip=20")
    assert one.same == other.same == Job(task="folder:a,colour").same != Job(task="folder:a").same
    assert Job(task="records:a,skip=1").same != Job(task="records:a").same


@pytest.fixture
def task(tmp_path):
    """Few classes in few dimensions."""
    labels, rng = np.arange(600) % 20, np.random.default_rng(0)
    centres = rng.standard_normal((20, 8), dtype=np.float32)
    np.save(tmp_path / "features.npy", centres[labels] + 0.2 * rng.standard_normal((600, 8), dtype=np.float32))
    np.save(tmp_path / "labels.npy", labels)
    return f"features:{tmp_path}"


NUMBERS = {"rate": 0.9, "batch": 64, "epochs": 3, "steps": 20, "dim": 16, "evaluate_every": 3, "device": "cpu"}


@pytest.mark.parametrize(
    "fields, kind", [({"optimizer": "adamw"}, RowAdamW), ({"storage": "bf16"}, RowSGD), ({"head": "full"}, RowSGD)]
)
def test_it_learns(fields, kind, task):
    trainer = make_trainer(job := Job(task, **NUMBERS, **fields), HERE)
    assert type(trainer.optimizer) is kind
    assert (trainer.head.weight.dtype == torch.bfloat16) is (job.storage == "bf16")
    losses = [row.loss for row in trainer.run().epochs]
    assert losses[-1] < 0.8 * losses[0] and trainer.history.accuracy > 0.3


def test_what_a_run_must_find_equal_does_not_name_where_and_how_long_it_runs():
    assert Job().same == Job(device="cpu", keep=5, save_every=3, log="x", checkpoints="a", timeout=9).same
    assert Job().same != Job(rate=0.2).same


def test_a_group_that_is_there_already_is_taken_as_it_is(task, tmp_path):
    """As Ray Train makes one before it calls a worker's function."""
    told = []
    job = Job(task, checkpoints=str(tmp_path / "run"), **NUMBERS)

    def work(rank, group):
        row = run_job(job, Told(begun=lambda trainer: told.append(trainer.ranks)))
        return row, dist.is_initialized()

    rows, still = zip(*on_ranks(2, work), strict=True)
    assert still == (True, True) and told == [2]
    assert rows[0]["finished"] and rows[0]["ranks"] == 2 and rows[0]["metrics"] == rows[1]["metrics"]
    assert (tmp_path / "run" / "step_00000060" / "manifest.json").exists()
