"""The plan of a cluster: what it adds up, and the records that its constants come from."""

from pathlib import Path

import pytest

from annsoftmax_ref.experiments.records import read_record
from annsoftmax_ref.planning.cluster import Cluster, plan_of_cluster
from annsoftmax_ref.planning.communication import received
from annsoftmax_ref.planning.memory import LARGEST_LIST, Training, kept, moments, total
from annsoftmax_ref.planning.ranks import rank_of

RESULTS = Path(__file__).parents[2] / "results"
PAPER = Training(300_000_000, 512, 16_384, flat=1)


def test_the_plan_adds_up():
    row = plan_of_cluster(PAPER, Cluster(256, "h100-80gb", samples=10**9, epochs=3, backbone_ms=5))
    assert row["total"] == sum(row["kept"].values()) + max(row["step"].values())
    assert row["received"] == received(PAPER, 256) and row["received"].keys() == row["exchange_ms"].keys()
    assert row["step_ms"] == pytest.approx(sum(row["stages_ms"].values()) + sum(row["exchange_ms"].values()) + 5)
    assert row["steps"] == -(-3 * 10**9 // 16_384)
    assert row["days"] == pytest.approx(row["steps"] * row["step_ms"] / 1e3 / 3600 / 24)
    at_most = total(rank_of(Training(row["largest"], 512, 16_384, flat=1), 256))
    assert at_most <= row["room"] < 1.01 * at_most


def test_products_are_those_of_one_card_shared_out_and_twice_the_cards_have_half_of_them():
    few, many = (plan_of_cluster(PAPER, Cluster(ranks, "h100-80gb")) for ranks in (64, 128))
    for stage in ("products", "search"):
        assert few["stages_ms"][stage] == pytest.approx(2 * many["stages_ms"][stage], rel=1e-3)
    assert few["exchange_ms"]["features"] < many["exchange_ms"]["features"]


def test_every_storage_that_an_optimizer_has_is_planned_and_none_where_no_number_is_enough():
    assert list(plan_of_cluster(PAPER, Cluster(256, "h100-80gb"))["smallest"]) == ["fp32", "bf16", "fp8", "fp8_int8"]
    adam = Training(1000, 512, 2**26, flat=1, optimizer="adamw")
    assert plan_of_cluster(adam, Cluster(8, "h100-80gb"))["smallest"]["fp8"] == {"same_batch": None, "same_each": None}


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"ranks": 0}, "ranks is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"backbone_ms": -1}, "backbone_ms is -1"),
        ({"beside": 80}, "beside is 80"),
    ],
)
def test_a_cluster_that_is_none(wrong, said):
    with pytest.raises(ValueError, match=said):
        plan_of_cluster(PAPER, Cluster(**{"ranks": 256, "gpu": "h100-80gb"} | wrong))


def test_the_memory_model_is_what_a_record_measured():
    (row,) = read_record(RESULTS / "cpu" / "capacity.json")["rows"]
    job = Training(**{name: row[name] for name in vars(PAPER)})
    planned = {**kept(job), "beside it in a step": max(moments(job).values())}
    assert row["planned_parts"] == planned and row["planned"] == total(job)
    assert row["planned"] == pytest.approx(row["taken"], rel=0.03)
    assert LARGEST_LIST == round(row["largest_list"], 1)


def test_the_simulated_cluster_is_the_planned_one():
    record = read_record(RESULTS / "cluster" / "simulated_256.json")
    job, ranks = Training(**record["job"]), record["ranks"]
    assert (job, ranks) == (PAPER, 256)
    found = {row["what"]: row["simulated"] for row in record["rows"]}
    assert len(found) > 20 and all(row["simulated"] == row["planned"] for row in record["rows"])
    for prefix, planned in (("kept", kept(rank_of(job, ranks))), ("received", received(job, ranks))):
        assert {name: found[f"{prefix}: {name}"] for name in planned} == planned
    assert record["seconds"] < 120 and record["peak_mb"] < 500
