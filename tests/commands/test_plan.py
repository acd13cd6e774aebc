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


PAPER = ["plan", "--classes", "300000000", "--dim", "512", "--batch", "16384", "--rate", "0.1", "--gpu", "h100-80gb"]


def test_a_plan_of_many_cards_says_memory_bytes_gpus_and_days_and_what_it_rests_on(capsys):
    assert main([*PAPER, "--ranks", "256"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "over 256 GPUs, 1,171,875 on each" in said and "| weights | 2.400 |" in said
    assert "| gradient | 33,423,360 |" in said
    assert "256 GPUs, " in said and " days of the head's part alone" in said and "(20 a class)" in said
    assert "the fewest h100-80gb that hold it" in said and "machines of 8" in said
    assert "No time has been measured on a GPU" in said and "results/cluster/simulated_256.json" in said
    assert "go by need" not in said
    assert main([*PAPER, "--ranks", "256", "--rate", "0.001", "--flat", "0"]) == 0
    assert "Places go by need: a GPU may have up to 2 times its 1,172" in capsys.readouterr().out


def test_the_record_of_a_plan_of_many_cards(capsys):
    given = ["--samples", "1000000", "--epochs", "2", "--backbone-ms", "20", "--json", "-"]
    assert main([*PAPER, "--ranks", "8", *given]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["ranks"] == 8 and row["steps"] == 123 and row["backbone_ms"] == 20
    assert row["days"] * 86_400e3 == pytest.approx(123 * row["step_ms"])
    assert main([*PAPER, "--ranks", "8", *given[:-2]]) == 0
    said = capsys.readouterr().out
    assert "does NOT fit" in said and "with a backbone of 20 ms" in said  # its logits are many


def test_one_rank_is_one_card(capsys):
    assert main(CALL) == main([*CALL, "--ranks", "1"]) == 0
    said = capsys.readouterr().out
    assert said[: len(said) // 2] == said[len(said) // 2 :] and "GPUs" not in said
    assert main([*CALL, "--epochs", "3"]) == 2
    assert "epochs is 3 with one rank" in capsys.readouterr().err
    assert main([*CALL, "--ranks", "0"]) == 2
    assert "ranks is 0" in capsys.readouterr().err
