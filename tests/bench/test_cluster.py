"""bench cluster: small clusters simulated, and what it says where a plan is wrong."""

import json

import pytest
import torch.distributed as dist

from annsoftmax_ref.bench import cluster
from annsoftmax_ref.bench.cluster import bench_cluster, differing
from annsoftmax_ref.cli import main
from annsoftmax_ref.planning.memory import Training

CALL = ["bench", "cluster", "--classes", "1003", "--dim", "64", "--batch", "12", "--ranks", "4"]


@pytest.mark.parametrize(
    "ranks, job",
    [
        (64, Training(1_000_003, 64, 512, flat=1)),
        (5, Training(5003, 64, 10, flat=2, storage="fp8_int8")),
        (8, Training(9, 32, 16, rate=0.5, flat=1, optimizer="adamw", products="fp32")),  # three processes have nothing
        (2, Training(1000, 32, 6, flat=1, storage="bf16", optimizer="sgd_without_momentum")),
    ],
    ids=str,
)
def test_what_is_simulated_is_what_is_planned(ranks, job):
    rows = bench_cluster(job, ranks)
    assert differing(rows) == []
    found = {row["what"]: row["simulated"] for row in rows}
    assert found["classes that follow on those of the process before"] == job.classes
    assert found["checkpoint: weights"] == job.classes * job.dim * job.width
    assert found["received: gradient"] == (ranks - 1) * job.batch // ranks * job.dim * 4
    assert not dist.is_initialized()


def test_a_plan_that_is_wrong_is_told(monkeypatch, capsys):
    kept = cluster.kept
    monkeypatch.setattr(cluster, "kept", lambda job: kept(job) | {"sign codes": 1})
    assert main(CALL) == 2
    said = capsys.readouterr()
    assert said.out.count("NOT equal") == 2 and "kept: sign codes, checkpoint: sign codes" in said.err


def test_classes_that_two_processes_would_save_are_refused(monkeypatch):
    plan_of = cluster._plan_of
    monkeypatch.setattr(cluster, "_plan_of", lambda one, *rest: plan_of(min(one, 2), *rest))
    with pytest.raises(ValueError, match="validate global plan"):
        bench_cluster(Training(1003, 64, 12, flat=1), 4)


def test_the_command_and_its_record(capsys):
    assert main([*CALL, "--json", "-"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["ranks"] == 4 and Training(**record["job"]) == Training(1003, 64, 12, flat=1)
    assert all(row["simulated"] == row["planned"] for row in record["rows"]) and record["seconds"] > 0
    assert main(CALL) == 0
    assert "4 processes in" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong, said",
    [(["--flat", "0"], "flat is 0"), (["--batch", "13"], "batch is 13"), (["--ranks", "0"], "ranks is 0")],
)
def test_a_cluster_that_is_none(capsys, wrong, said):
    assert main([*CALL, *wrong]) == 2
    assert said in capsys.readouterr().err
