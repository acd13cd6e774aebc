"""tables.py, reports.py, table_plots.py and the command: what is computed from rows, and that no cell is blank."""

import itertools
import json
import re

import pytest

from annsoftmax_ref import cli
from annsoftmax_ref.experiments import reports, runs, table_plots, tables
from annsoftmax_ref.experiments.runs import Run, Store
from annsoftmax_ref.factory import make_head

UNSEEN = ("recall_at_1", "tar_at_far_1e-3", "rank1")
COUNTER = itertools.count()


def made_up(run: Run) -> dict:
    """A row with the fields of a real one; accuracy tells the seed, the rest counts up."""
    value = 0.5 + run.seed / 100
    names = ("accuracy", "top5", "head", "middle", "tail", *UNSEEN)
    looks = {name: [0.1, 0.2, 0.3] for name in runs.LOOKS}
    return {
        **vars(run),
        "options": dict(run.options),
        "accuracy": value,
        "metrics": dict.fromkeys(names, value),
        "seconds": 10.0,
        "head_ms": 1.0 + next(COUNTER),
        "looks": looks,
        **{name: 0.2 for name in looks},
        "history": [{"seconds": 10.0, "accuracy": 0.4}, {"seconds": 20.0, "accuracy": 0.9}],
    }


@pytest.fixture
def store(tmp_path):
    """Rows for every run of every table."""
    store = Store(tmp_path / "runs.json")
    store.rows = {run: made_up(run) for table in tables.TABLES.values() for run in table.runs}
    return store


@pytest.mark.parametrize("name", tables.TABLES)
def test_a_table_has_no_blanks_once_its_runs_are_made(name, store):
    text = tables.TABLES[name].render(store)
    cells = [cell.strip() for line in text.splitlines() if line.startswith("| ") for cell in line.split("|")[1:-1]]
    blank = [cell for cell in cells if cell in ("", "-")]
    # Full softmax leaves nothing out, so it has no mass to measure but one: all of it.
    assert cells and not blank
    assert "51.0 ± 1.0" in text or name == "training"  # seeds 0, 1, 2 -> 50, 51, 52 %


@pytest.mark.parametrize("name", tables.TABLES)
def test_a_table_can_be_shown_before_its_runs_are_made(name, tmp_path):
    assert "| " in tables.TABLES[name].render(Store(tmp_path / "none.json")) or name == "training"


@pytest.mark.parametrize(
    "run", {(r.head, r.objective, r.rate, r.options): r for t in tables.TABLES.values() for r in t.runs}.values()
)
def test_every_run_can_be_made(run):
    """Its head exists with its options (in a size that takes them)."""
    make_head(run.head, 20_000, 8, run.objective, run.rate, **dict(run.options))


def test_every_head_meets_every_objective_on_both_tasks_with_three_seeds():
    for name in ("classification", "embedding"):
        made = {(run.head, run.objective, run.seed) for run in tables.TABLES[name].runs}
        assert made == set(itertools.product(tables.HEADS, tables.OBJECTIVES, (0, 1, 2)))


def test_means_spreads_and_gaps():
    rows = [{"metrics": {"accuracy": v}, "head_ms": 3.0} for v in (0.5, 0.6, 0.7)]
    assert reports.percent("accuracy")(rows) == "60.0 ± 10.0"
    assert reports.percent("accuracy")(rows[:1]) == "50.0"
    assert reports.percent("recall")(rows) == "-"
    assert reports.plain("head_ms", 2)(rows) == "3.00"
    cells = {("full",): rows[2:], ("ann",): rows[1:2], ("random",): rows[:1]}
    assert reports.gaps(cells, "accuracy") == "ann is 10.0 behind full, 10.0 ahead of random."
    assert reports.gaps({("full",): rows}, "accuracy") == ""


def test_cross_puts_first_labels_down_and_second_across():
    rows = [{"metrics": {"accuracy": 0.5}}]
    text = reports.cross({("a", "x"): rows, ("b", "y"): rows}, reports.percent("accuracy"), "corner")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert lines[0] == ["corner", "x", "y"] and lines[2:] == [["a", "50.0", "-"], ["b", "-", "50.0"]]
    assert len({len(line) for line in text.splitlines()}) == 1


def test_seconds_to_an_accuracy_are_read_off_the_line_between_looks():
    row = {"history": [{"seconds": 10.0, "accuracy": 0.4}, {"seconds": 20.0, "accuracy": 0.9}]}
    assert tables.seconds_to(row, 0.4) == 10.0 and tables.seconds_to(row, 0.65) == pytest.approx(15.0)
    assert tables.seconds_to(row, 0.2) == pytest.approx(5.0) and tables.seconds_to(row, 0.95) is None


@pytest.mark.parametrize("name", [name for name, table in tables.TABLES.items() if table.draw])
def test_plots_show_every_line(name, store):
    table = tables.TABLES[name]
    figure = table.draw(table.found(store))
    shown = {text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()}
    expected = {labels[0] for labels in table.cells} - ({"full"} if name == "training" else set())
    assert expected <= shown
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)


def test_the_command_trains_what_is_missing_prints_and_records(tmp_path, monkeypatch, capsys):
    small = {"task": "pairs:300", "batch_size": 32, "epochs": 1, "rate": 0.3}
    cells = {(head, "1/3"): [Run(head=head, **small)] for head in ("full", "random")}
    table = tables.Table("Small?", cells, tables.report_rates, table_plots.rate_curves)
    monkeypatch.setitem(tables.TABLES, "rates", table)
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


def test_all_tables_can_be_made_by_several_processes_for_none_of_them_is_timed(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(runs, "train_missing", lambda missing, *rest: asked.extend(missing))
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
