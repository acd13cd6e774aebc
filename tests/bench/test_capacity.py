"""bench capacity: a head as it was planned, made and trained."""

import json

import pytest
import torch

from annsoftmax_ref.bench.capacity import bench_capacity, table
from annsoftmax_ref.cli import main
from annsoftmax_ref.planning.memory import Training, kept

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
