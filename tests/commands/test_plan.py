import json

import pytest

from annsoftmax_ref.cli import main

CALL = ["plan", "--classes", "30000000", "--storage", "bf16", "--rate", "0.01"]


def test_plan_prints_memory_and_times(capsys):
    assert main(CALL) == 0
    said = " ".join(capsys.readouterr().out.split())  # columns are padded
    assert "| weights | 30.72 |" in said and "fits into" in said and "not measured" in said


def test_plan_says_what_does_not_fit(capsys):
    assert main([*CALL, "--gpu", "a100-40gb"]) == 0
    assert "does NOT fit into" in capsys.readouterr().out


def test_the_record_of_a_plan(capsys):
    assert main([*CALL, "--json", "-"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["total"] == sum(row["kept"].values()) + max(row["step"].values())
    assert row["step_ms"] == pytest.approx(sum(row["stages_ms"].values())) and row["full_ms"] > row["step_ms"]


@pytest.mark.parametrize("wrong, said", [(["--beside", "80"], "beside is 80"), (["--rate", "0"], "sample_rate is 0")])
def test_a_plan_that_is_none(capsys, wrong, said):
    assert main([*CALL, *wrong]) == 2
    assert said in capsys.readouterr().err
