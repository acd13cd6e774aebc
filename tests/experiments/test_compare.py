"""compare.py, plots.py and records.py, on a corner of the glyphs."""

import copy
import re

import pytest
import torch

from annsoftmax_ref.datasets import glyphs
from annsoftmax_ref.experiments import compare, plots, records, reports, runs

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


@pytest.fixture(scope="module")
def corner():
    """The first 600 classes only, so that a run takes a second or two."""
    data = glyphs.load_glyphs(progress=False)
    data.train, data.test = (part.select(part.labels < 600) for part in (data.train, data.test))
    data.num_classes = 600
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "load", lambda task: data)
        patch.setattr(runs, "DIAGNOSE_EVERY", 10)
        yield


@pytest.fixture(scope="module")
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
    text = reports.comparison(rows)
    for head in ("full", "random", "ann"):
        assert f"| {head} " in text
    assert re.search(r"cosface, accuracy: ann is .*\brandom\b.*, in points over 2 pairs\.", text) and text.endswith(
        reports.HOW_TOLD
    )
    plots.save_figure(plots.accuracy_curves(rows), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_uneven_classes_of_which_a_batch_holds_few_are_not_refused(corner, monkeypatch):
    """256 samples of 600 classes, and 60 places: it is the labels that count, not the number of samples."""
    data = copy.deepcopy(runs.load(""))
    data.train.labels[:] = data.train.labels % 50
    monkeypatch.setattr(runs, "load", lambda task: data)
    assert len(compare.compare(heads=("random",), epochs=1, progress=False)) == 1


def test_records_are_written_whole_with_what_made_them(tmp_path):
    target = tmp_path / "new" / "r.json"
    records.write_record(records.make_record([{"a": 1}]), target)
    record = records.read_record(target)
    assert record["rows"] == [{"a": 1}] and record["environment"]["torch"] == torch.__version__
    assert len(list(target.parent.iterdir())) == 1
