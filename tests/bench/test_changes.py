"""bench/changes.py: each size has its row, and what it says of the others is looked at."""

import json

import pytest
import torch

from annsoftmax_ref import cli
from annsoftmax_ref.bench import changes


def test_a_row_for_each_number_of_classes(tmp_path, capsys):
    path = tmp_path / "changes.json"
    call = ["bench", "changes", "--classes", "600", "700", "--add", "50", "--dim", "16", "--rounds", "1"]
    assert cli.main([*call, "--json", str(path)]) == 0
    assert "700 classes: 50 added in" in capsys.readouterr().out
    rows = json.loads(path.read_text())["rows"]
    assert [row["classes"] for row in rows] == [600, 700]
    for row in rows:
        assert row["unchanged"] and min(row["add_ms"], row["remove_ms"], row["copy_ms"]) > 0
        # float32 weight and momentum, steps, a code of one word, list, clock; and slots, a quarter more of them
        assert row["copied_mb"] > row["classes"] * (2 * 16 * 4 + 8 + 8 + 8 + 4 + 8 + 16) / 1e6


def test_a_change_of_others_is_told(monkeypatch):
    add = changes.ANNSoftmax.add_classes

    def careless(head, n, *arguments):
        ids = add(head, n, *arguments)
        with torch.no_grad():
            head.weight[0, 0] += 1
        return ids

    monkeypatch.setattr(changes.ANNSoftmax, "add_classes", careless)
    (row,) = changes.bench_changes([600], 50, dim=16, rounds=1)
    assert not row["unchanged"]


@pytest.mark.parametrize("name", ["classes", "add", "dim", "rounds"])
def test_bad_numbers_end_with_one_line(name, capsys):
    assert cli.main(["bench", "changes", f"--{name}", "0"]) == 2
    assert f"{name} is 0; it should be at least 1" in capsys.readouterr().err
