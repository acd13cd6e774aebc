"""commands/compare.py: what was trained is written, and what can be checked is checked before."""

import json
import os
import re
import subprocess
import sys

import pytest

from annsoftmax_ref import cli
from annsoftmax_ref.experiments import runs

CALL = ["compare", "--task", "pairs:300", "--rate", "0.9", "--epochs", "1"]


@pytest.fixture
def made_up(monkeypatch):
    """Runs that take no time; those of the second head are stopped by the error that is put in the list."""
    stop = []

    def train(run, *rest):
        if stop and run.head == "random":
            raise stop[0]
        epoch = {"epoch": 1, "accuracy": 0.5, "seconds": 1.0}
        fields = {"num_classes": 300, "accuracy": 0.5, "metrics": {"accuracy": 0.5}, "history": [epoch]}
        measured = dict.fromkeys(("loss", "captured_mass", "recall", "seconds", "head_ms", "peak_mb"), 1.0)
        return {**vars(run), **fields, **measured, "options": dict(run.options)}

    monkeypatch.setattr(runs, "train", train)
    return stop


def test_standard_output_holds_the_record_and_nothing_else(capsys):
    code = cli.main([*CALL, "--heads", "random", "--json", "-"])
    record = json.loads(capsys.readouterr().out)
    assert code == 0 and len(record["rows"]) == 1 and set(record) == {"rows", "environment", "command"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            [],
            "random 6 of 60 classes, too few for a batch of 256 samples; raise rate to 1, or groups to 43, or leave",
        ),
        (
            ["--heads", "ann", "--groups", "2"],
            "leaves ann 6 of 60 classes.* raise rate to 1, or groups to 43, or leave",
        ),
    ],
)
def test_sixty_classes_with_the_default_heads_are_refused_before_full_is_trained(arguments, words, made_up, capsys):
    made_up.append(AssertionError("trained"))
    assert cli.main(["compare", "--task", "pairs:60", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and re.search(words, captured.err) and "batch size" not in captured.err


@pytest.mark.parametrize("advice", [["--rate", "1"], ["--heads", "ann", "--groups", "43"], ["--heads", "full"]])
def test_the_advice_for_sixty_classes_can_be_followed(advice, made_up):
    assert cli.main(["compare", "--task", "pairs:60", *advice]) == 0


@pytest.mark.parametrize(
    "error, code, words",
    [
        (FloatingPointError("the loss is nan"), 2, "the loss is nan"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_was_trained_is_written_when_a_later_head_fails(error, code, words, made_up, tmp_path, capsys):
    made_up.append(error)
    outputs = ["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]
    assert cli.main([*CALL, "--heads", "full", "random", *outputs]) == code
    captured = capsys.readouterr()
    assert "| full " in captured.out and words in captured.err
    assert [row["head"] for row in json.loads((tmp_path / "a.json").read_text())["rows"]] == ["full"]
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_a_failure_of_the_first_head_writes_nothing(made_up, tmp_path, capsys):
    made_up.append(ValueError("no"))
    assert cli.main([*CALL, "--heads", "random", "--json", str(tmp_path / "a.json")]) == 2
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())


def test_a_terminal_in_ascii_keeps_table_and_record(tmp_path):
    call = [*CALL, "--heads", "full", "--seeds", "0", "1", "--json", str(tmp_path / "a.json")]
    run = subprocess.run(
        [sys.executable, "-m", "annsoftmax_ref", *call],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert run.returncode == 0, run.stderr
    assert re.search(rb"\| full +\| 100% .*\d% \+- \d", run.stdout)
    assert len(json.loads((tmp_path / "a.json").read_text())["rows"]) == 2


def test_each_head_gets_the_options_that_it_has_and_its_row_says_so(made_up, tmp_path):
    options = ["--option", "nprobe=2", "--option", "grouping=random", "--option", "priority=True"]
    call = [*CALL, "--heads", "full", "random", "ann", "--groups", "2", *options, "--json", str(tmp_path / "a.json")]
    assert cli.main(call) == 0
    rows = {row["head"]: row["options"] for row in json.loads((tmp_path / "a.json").read_text())["rows"]}
    random = {"grouping": "random", "groups": 2}
    assert rows == {"full": {}, "random": random, "ann": random | {"nprobe": 2, "priority": True}}


@pytest.mark.parametrize(
    "heads, options, words",
    [
        (["full", "random"], ["nprobe=2"], "options has 'nprobe', and the head full has none, the head random has gr"),
        (["ann"], ["zzz=1"], "options has 'zzz', and the head ann has grouping, nlist, nprobe"),
        (["full", "ann"], ["nprobe=0"], "nprobe is 0; it should be at least 1"),
        (["full", "ann"], ["nprobe=few"], "nprobe is 'few'; it should be a whole number"),
        (["ann"], ["nprobe"], "option is 'nprobe'; it should be NAME=VALUE"),
        (["ann"], ["tail=0.1", "priority=True"], "tail is 0.1 and priority is True"),
    ],
)
def test_an_option_that_is_none_is_refused_before_anything_is_trained(heads, options, words, made_up, capsys):
    made_up.append(AssertionError("trained"))
    flags = [part for option in options for part in ("--option", option)]
    assert cli.main([*CALL, "--heads", *heads, *flags]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and words in captured.err and captured.err.count("\n") == 1
