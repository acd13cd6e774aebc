"""commands/train.py: one process or several; killed, stopped and gone on with; errors told once."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from forked import ROOT, Server

from annsoftmax_ref import cli
from annsoftmax_ref.commands.train import job_of
from annsoftmax_ref.experiments import records

CLASSES = 60


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Few classes in few dimensions."""
    folder, rng = tmp_path_factory.mktemp("features"), np.random.default_rng(0)
    labels = np.arange(3000) % CLASSES
    centres = rng.standard_normal((CLASSES, 16), dtype=np.float32)
    np.save(folder / "features.npy", centres[labels] + 0.3 * rng.standard_normal((3000, 16), dtype=np.float32))
    np.save(folder / "labels.npy", labels)
    return f"features:{folder}"


@pytest.fixture(scope="module")
def call(task):
    numbers = {"rate": 0.6, "batch": 32, "steps": 12, "epochs": 2, "dim": 16, "lr": 0.2, "save-every": 4}
    flags = [text for name, value in numbers.items() for text in (f"--{name}", str(value))]
    return ["train", "--task", task, "--device", "cpu", *flags]


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.close()


def row_of(path):
    return records.read_record(path)["rows"][0]


def numbers(row):
    """What must be equal where times may differ."""
    return [(epoch["loss"], epoch["accuracy"], epoch["lr"]) for epoch in row["history"]], row["metrics"], row["step"]


def parsed(*arguments):
    return job_of(cli.build_parser().parse_args(["train", *arguments]))


def test_flags_win_over_the_file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('head = "random"\nrate = 0.5\nseed = 3\naugment = false\n[options]\ngrouping = "random"\n')
    job = parsed("--config", str(path), "--rate", "0.25", "--option", "nprobe=32", "--option", "far=False")
    assert (job.head, job.rate, job.seed, job.augment) == ("random", 0.25, 3, False)
    assert job.options == {"grouping": "random", "nprobe": 32, "far": False}
    assert parsed("--config", str(path), "--augment").augment
    with pytest.raises(ValueError, match="option is 'nprobe'; it should be NAME=VALUE"):
        parsed("--option", "nprobe")


def test_one_process_trains_logs_and_writes_its_record(call, tmp_path, capsys):
    arguments = [*call, "--checkpoints", str(tmp_path / "run"), "--json", str(tmp_path / "row.json")]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "training: 24 steps on 1 process" and re.match(r"epoch 2/2: loss [\d.]+, test [\d.]+%, ", said[2])
    assert re.match(r"done: 24 steps in \d+ s of training, accuracy [\d.]+%", said[-1])
    row = row_of(tmp_path / "row.json")
    assert row["finished"] and row["status"] == 0 and row["num_classes"] == CLASSES and len(row["history"]) == 2
    assert sorted(path.name for path in (tmp_path / "run").glob("step_*")) == ["step_00000020", "step_00000024"]
    assert cli.main([*arguments, "--resume"]) == 0  # there is nothing left to do
    assert numbers(row_of(tmp_path / "row.json")) == numbers(row)
    assert cli.main(arguments) == 2
    assert "has one of step 24 already; add --resume" in capsys.readouterr().err


def test_standard_output_holds_the_record_and_nothing_else(call, capsys):
    assert cli.main([*call, "--epochs", "1", "--json", "-"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["rows"][0]["step"] == 12 and captured.err == ""


def test_a_log_where_tensorboard_is_missing_is_refused(call, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert cli.main([*call, "--log", str(tmp_path)]) == 2
    assert "TensorBoard is not installed" in capsys.readouterr().err


def test_one_process_that_is_told_to_end_saves_and_says_so(call, tmp_path):
    command = [sys.executable, "-m", "annsoftmax_ref", *call, "--epochs", "5000", "--checkpoints", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(signal.SIGTERM)
    said, errors = process.communicate(timeout=60)
    step = int(re.fullmatch(r"stopped by SIGTERM after step (\d+); go on with --resume", said.splitlines()[-1])[1])
    assert process.returncode == 128 + signal.SIGTERM and errors == ""
    assert (tmp_path / f"step_{step:08d}" / "manifest.json").exists()


def test_two_processes_killed_and_stopped_end_where_an_uninterrupted_run_ends(call, tmp_path, server):
    def start(name, ranks=2, *more):
        folders = ["--checkpoints", str(tmp_path / name), "--json", str(tmp_path / f"{name}.json")]
        return server.start(ranks, tmp_path / f"said_{name}", *call, *folders, "--resume", *more)

    whole = start("whole")
    assert whole.wait() == [0, 0] and whole.said().count("done: ") == 1
    assert whole.said().splitlines()[0] == "training: 24 steps on 2 processes"
    killed = start("killed")
    killed.until("epoch 1/2")
    killed.send(signal.SIGKILL, 1)
    assert killed.wait() == [2, -signal.SIGKILL]
    assert killed.said().count("\n") == 3 and "process 0 of 2 has lost another one" in killed.said()
    resumed = start("killed")
    assert resumed.wait() == [0, 0] and re.search("going on after step (8|12|16|20)", resumed.said())
    assert numbers(row_of(tmp_path / "killed.json")) == numbers(row_of(tmp_path / "whole.json"))


def test_a_signal_to_one_process_stops_all_which_another_number_goes_on_with(call, tmp_path, server):
    arguments = [*call, "--epochs", "60", "--evaluate-every", "0", "--checkpoints", str(tmp_path / "run"), "--resume"]
    run = server.start(2, tmp_path / "said", *arguments)
    run.until("epoch 2/")
    run.send(signal.SIGTERM, 0)
    assert run.wait() == [143, 143]
    last = run.said(0).splitlines()[-1]
    step = int(re.fullmatch(r"stopped by SIGTERM after step (\d+); go on with --resume", last)[1])
    again = server.start(3, tmp_path / "said", *arguments)
    again.until(f"on 3 processes, going on after step {step}")
    again.until("epoch 9/")
    again.send(signal.SIGINT, 1, 2)
    assert again.wait() == [130 if "by SIGINT" in again.said() else 143, 130, 130]


@pytest.mark.parametrize(
    "more, words",
    [
        (["--head", "nope"], "argument --head: invalid choice: 'nope'"),
        (["--task", "folder:/nope"], "folder is /nope, which is not a folder"),
        (["--batch", "3"], "batch is 3 for 2 processes; it should be at least 4"),
        (["--option", "zzz=1"], "options has 'zzz'"),
        (["--config", "/nope.toml"], "config is /nope.toml, which cannot be read"),
        (["--rate", "0.02", "--groups", "1"], "sample_rate|rate|groups"),
    ],
)
def test_what_is_wrong_is_told_once_by_two_processes(call, tmp_path, server, more, words):
    run = server.start(2, tmp_path, *call, *more)
    assert run.wait() == [2, 2]
    lines = [line for line in run.said().splitlines() if not line.startswith("training: ")]
    assert len(lines) == 1 and re.search(words, lines[0]), run.said()


def test_nothing_of_torchrun_is_looked_for_by_one_process(call, monkeypatch):
    monkeypatch.setitem(os.environ, "RANK", "0")  # left by something else
    assert cli.main([*call, "--epochs", "1", "--json", os.devnull]) == 0
