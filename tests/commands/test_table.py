"""commands/table.py: it trains what is missing, prints and records."""

import json
import re

import pytest

from annsoftmax_ref import cli
from annsoftmax_ref.commands import table as command
from annsoftmax_ref.experiments import plots, tables
from annsoftmax_ref.experiments.runs import Run

SMALL = {"task": "pairs:300", "batch_size": 32, "epochs": 1, "rate": 0.3}


@pytest.fixture
def small(monkeypatch):
    """The table "rates" of two runs of seconds."""
    cells = {(head, "1/3"): [Run(head=head, **SMALL)] for head in ("full", "random")}
    table = tables.Table("Small?", cells, tables.report_rates, plots.rate_curves)
    monkeypatch.setitem(tables.TABLES, "rates", table)


def test_it_trains_what_is_missing_prints_and_records(small, tmp_path, capsys):
    store, plot = tmp_path / "runs.json", tmp_path / "plot.png"
    call = ["table", "rates", "--store", str(store), "--plot", str(plot)]
    assert cli.main([*call, "--json", str(tmp_path / "a.json")]) == 0
    out, err = capsys.readouterr()
    assert "rates: Small?" in out and re.search(r"\| random +\| \d+\.\d +\|", out) and "0 runs to go" in err
    assert len(json.loads((tmp_path / "a.json").read_text())["rows"]) == 2
    assert plot.read_bytes()[:4] == b"\x89PNG"
    before = store.read_bytes()
    assert cli.main(call) == 0  # nothing is trained again
    assert "to go" not in capsys.readouterr().err and store.read_bytes() == before


def test_an_interruption_leaves_the_table_of_what_was_trained(small, tmp_path, monkeypatch, capsys):
    def interrupted(missing, store, *rest):
        store.add({**vars(missing[0]), "options": {}, "metrics": {"accuracy": 0.5}, "accuracy": 0.5})
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "train_missing", interrupted)
    call = ["table", "rates", "--store", str(tmp_path / "runs.json"), "--json", str(tmp_path / "a.json")]
    assert cli.main(call) == 130
    captured = capsys.readouterr()
    assert "full softmax: 50.0 %" in captured.out and "interrupted" in captured.err
    assert len(json.loads((tmp_path / "a.json").read_text())["rows"]) == 1


def test_what_a_table_wants_is_asked_again_after_each_seed(tmp_path, monkeypatch, capsys):
    runs = [Run(head="full", seed=seed, lr=lr, **SMALL) for seed in (0, 1) for lr in (0.1, 0.2)]

    def needed(run, store):
        return run.seed == 0 or (len(store.rows) == 2 and run.lr == 0.2)

    asked = []

    def trained(missing, store, jobs, device, announce):
        asked.append(missing)
        for run in missing:
            store.add({**vars(run), "options": {}, "metrics": {"accuracy": 0.5}, "accuracy": 0.5, "seconds": 1.0})
            announce(store.rows[run])

    monkeypatch.setitem(tables.TABLES, "rates", tables.Table("?", {("full", "all"): runs}, str, needed=needed))
    monkeypatch.setattr(command, "train_missing", trained)
    assert cli.main(["table", "rates", "--store", str(tmp_path / "runs.json")]) == 0
    assert asked == [runs[:2], runs[3:]] and capsys.readouterr().err.count("; 0 runs to go") == 2


def test_all_tables_can_be_made_by_several_processes_for_none_of_them_is_timed(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(command, "train_missing", lambda missing, *rest: asked.extend(missing))
    assert cli.main(["table", "all", "--jobs", "2", "--store", str(tmp_path / "runs.json")]) == 0
    untimed = [run for table in tables.TABLES.values() if not table.timed for run in table.runs]
    assert set(asked) == set(untimed) and "rates: How few" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["rates", "--jobs", "0"], "jobs is 0"),
        (["classification", "--plot", "a.png"], "the table classification has none"),
        (["rates", "--device", "tpu"], "device is 'tpu'"),
        (["seconds", "--jobs", "2"], "jobs is 2"),
    ],
)
def test_bad_calls_end_in_one_line(arguments, words, tmp_path, capsys):
    assert cli.main(["table", *arguments, "--store", str(tmp_path / "runs.json")]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_a_store_that_cannot_be_written_is_told_before_anything_is_trained(small, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["table", "rates", "--store", str(tmp_path / "file" / "runs.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "store is " in captured.err
