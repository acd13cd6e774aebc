"""bench capacity: a head as it was planned, made and trained."""

import json

import pytest
import torch

from annsoftmax_ref.bench.capacity import bench_capacity, table
from annsoftmax_ref.cli import main
from annsoftmax_ref.planning.memory import Training, kept, total
from annsoftmax_ref.planning.ranks import rank_of

CALL = ["bench", "capacity", "--classes", "3000", "--dim", "32", "--batch", "16", "--device", "cpu"]


@pytest.mark.parametrize("optimizer", ["sgd", "sgd_without_momentum", "adamw"])
def test_what_is_taken_stands_beside_what_is_planned(optimizer):
    job = Training(3000, 32, 16, storage="bf16", products="fp32", optimizer=optimizer)
    row = bench_capacity(job, torch.device("cpu"), rounds=2)
    assert row["kept_parts"]["weights"] == kept(job)["weights"] == 3000 * 32 * 2
    assert row["kept_parts"]["optimizer's buffers"] == kept(job)["optimizer's buffers"]
    assert row["ms"] > 0 and row["taken"] >= sum(row["kept_parts"].values())
    text = table(row)
    assert all(f"| {part} " in text for part in row["planned_parts"])
    row["step_mb"] = row["taken"] = None
    assert "| all " in table(row)


def test_the_command_and_its_record(capsys):
    assert main([*CALL, "--json", "-", "--rounds", "1"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["classes"] == 3000 and row["rounds"] == 1
    assert main([*CALL, "--rounds", "0"]) == 2


def test_one_process_of_256_is_made_and_trained_with_samples_of_all(capsys):
    job = Training(102_400, 32, 512, flat=1)
    row = bench_capacity(job, torch.device("cpu"), rounds=1, ranks=256)
    part = rank_of(job, 256)
    assert (row["classes"], row["ranks"]) == (102_400, 256)
    assert row["kept_parts"] == kept(part) and row["planned"] == total(part)
    call = ["bench", "capacity", "--device", "cpu", "--rounds", "1", "--classes", "102400", "--dim", "32"]
    assert main([*call, "--batch", "512", "--ranks", "256", "--json", "-"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["rows"]
    assert found["ranks"] == 256 and found["kept_parts"]["weights"] == 400 * 32 * 4
    assert main([*call, "--batch", "100", "--ranks", "256"]) == 2
    assert "batch is 100; it should be a multiple of the 256 ranks" in capsys.readouterr().err
