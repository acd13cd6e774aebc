"""compare.py, plots.py, records.py and the command line, on a corner of the glyphs."""

import json
import re
import subprocess
import sys

import pytest
import torch

from annsoftmax_ref import cli
from annsoftmax_ref.datasets import glyphs
from annsoftmax_ref.experiments import compare, plots, records, runs

FIELDS = {
    "head",
    "objective",
    "rate",
    "groups",
    "seed",
    "epochs",
    "num_classes",
    "accuracy",
    "loss",
    "seconds",
    "head_ms",
    "captured_mass",
    "recall",
    "peak_mb",
    "task",
    "metrics",
    "history",
}


@pytest.fixture
def corner(monkeypatch):
    """The first 600 classes only, so that a run takes a second or two."""
    data = glyphs.load_glyphs(progress=False)
    data.train, data.test = (part.select(part.labels < 600) for part in (data.train, data.test))
    data.num_classes = 600
    monkeypatch.setattr(runs, "load", lambda task: data)
    monkeypatch.setattr(runs, "DIAGNOSE_EVERY", 10)


@pytest.fixture
def rows(corner):
    return compare.compare(heads=("full", "random", "ann"), rate=0.5, groups=8, epochs=2, seeds=(0, 1), progress=False)


def test_rows_are_as_the_design_says_and_repeatable(rows, corner):
    assert [(r["head"], r["seed"]) for r in rows] == [(h, s) for s in (0, 1) for h in ("full", "random", "ann")]
    for row in rows:
        assert FIELDS <= set(row)
        assert 0 <= row["accuracy"] <= 1 and 0 <= row["recall"] <= 1 and 0 <= row["captured_mass"] <= 1.0001
        assert len(row["history"]) == row["epochs"] == 2 and row["history"][-1]["accuracy"] == row["accuracy"]
        assert row["metrics"]["accuracy"] == row["accuracy"] <= row["metrics"]["top5"] <= 1
    full, random, ann = rows[:3]
    assert full["captured_mass"] == pytest.approx(1) and full["rate"] == 1.0 and full["groups"] is None
    assert ann["groups"] == 8 and ann["captured_mass"] > random["captured_mass"]
    again = compare.compare(heads=("ann",), rate=0.5, groups=8, epochs=2, seeds=(0,), progress=False)[0]
    assert (again["accuracy"], again["loss"]) == (ann["accuracy"], ann["loss"])


def test_table_and_plot_show_every_head(rows, tmp_path):
    text = compare.table(rows)
    for head in ("full", "random", "ann"):
        assert f"| {head} " in text
    assert re.search(r"cosface: ann is \d+\.\d points (ahead of|behind) full\.", text)
    plots.save_figure(plots.accuracy_curves(rows), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_findings_say_so_when_random_wins():
    def row(head, accuracy):
        return {"objective": "cosface", "head": head, "accuracy": accuracy}

    assert compare.findings([row("full", 0.9), row("random", 0.91), row("ann", 0.88)]) == [
        "cosface: ann is 2.0 points behind full.",
        "cosface: ann is 3.0 points behind random.",
    ]


def test_records_are_written_whole_with_what_made_them(tmp_path):
    target = tmp_path / "new" / "r.json"
    records.write_record(records.make_record([{"a": 1}]), target)
    record = records.read_record(target)
    assert record["rows"] == [{"a": 1}] and record["environment"]["torch"] == torch.__version__
    assert len(list(target.parent.iterdir())) == 1


def test_command_line_writes_json_and_nothing_else_to_stdout(corner, capsys):
    code = cli.main(["compare", "--heads", "random", "--epochs", "1", "--rate", "0.5", "--json", "-"])
    record = json.loads(capsys.readouterr().out)
    assert code == 0 and len(record["rows"]) == 1 and set(record) == {"rows", "environment", "command"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["compare", "--rate", "0"], "sample_rate is 0.0"),
        (["compare", "--rate", "2"], "sample_rate is 2.0"),
        (["compare", "--groups", "0"], "groups is 0"),
        (["compare", "--task", "letters"], "task is 'letters'"),
        (["compare", "--task", "fonts:/nowhere"], "/nowhere"),
        (["compare", "--heads", "fast"], "invalid choice: 'fast'"),
        (["compare", "--objective", "hinge"], "invalid choice: 'hinge'"),
        (["compare", "--epochs", "0", "--heads", "full"], "epochs is 0"),
        (["compare", "--device", "abacus"], "device"),
        (["count"], "invalid choice: 'count'"),
        ([], "COMMAND"),
    ],
)
def test_wrong_calls_end_with_2_and_one_line(arguments, words, capsys):
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2 and captured.out == ""
    assert words in captured.err and captured.err.count("\n") == 1


def test_every_command_has_help_with_an_example(capsys):
    for command in ("doctor", "compare"):
        with pytest.raises(SystemExit) as stop:
            cli.main([command, "--help"])
        assert stop.value.code == 0 and f"example: annsoftmax {command}" in capsys.readouterr().out


def test_python_m_runs_the_command_line():
    run = subprocess.run([sys.executable, "-m", "annsoftmax_ref", "--version"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith("annsoftmax ")
