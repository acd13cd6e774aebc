"""runs.py: a run gives the row that it describes, and the store never makes it twice nor loses it."""

import json

import pytest

from annsoftmax_ref.experiments import runs
from annsoftmax_ref.experiments.phases import STAGES
from annsoftmax_ref.experiments.runs import Run, Store

SMALL = {"task": "pairs:300", "rate": 0.3, "batch_size": 32, "epochs": 1}
TIMES = ("seconds", "head_ms", "phases_ms", "peak_mb", "history")


@pytest.fixture(scope="module")
def row():
    runs.DIAGNOSE_EVERY, before = 10, runs.DIAGNOSE_EVERY
    yield runs.train(Run(head="ann", options=(("groups", 2), ("grouping", "similar")), seed=1, **SMALL))
    runs.DIAGNOSE_EVERY = before


def fake(run: Run) -> dict:
    return {**vars(run), "options": dict(run.options), "metrics": {}, "accuracy": 0.5}


def test_a_row_holds_its_run_and_what_came_of_it(row):
    assert Run.of(row) == Run(head="ann", options=(("grouping", "similar"), ("groups", 2)), seed=1, **SMALL)
    assert row["num_classes"] == 300 and 0 < row["accuracy"] <= row["metrics"]["top5"] <= 1
    assert row["metrics"]["accuracy"] == row["accuracy"]
    assert len(row["looks"]["recall"]) >= 3 and 0.3 < row["recall"] <= 1
    assert row["recall"] == pytest.approx(sum(row["looks"]["recall"]) / len(row["looks"]["recall"]))
    assert set(row["phases_ms"]) == set(STAGES) and row["phases_ms"]["select"] > 0
    assert row["environment"]["torch"] and json.loads(json.dumps(row)) == row


def test_the_same_run_gives_the_same_row(row, monkeypatch):
    monkeypatch.setattr(runs, "DIAGNOSE_EVERY", 10)
    again = runs.train(Run.of(row))
    assert {k: v for k, v in again.items() if k not in TIMES} == {k: v for k, v in row.items() if k not in TIMES}


def test_a_learning_rate_of_its_own_is_taken_and_rows_from_before_there_was_one_are_known(monkeypatch):
    taken = []
    monkeypatch.setattr(runs, "fit", lambda model, head, data, recipe, **options: taken.append(recipe.lr) or 1 / 0)
    for lr in (None, 0.3):
        with pytest.raises(ZeroDivisionError):
            runs.train(Run(head="random", lr=lr, **SMALL))
    assert taken == [runs.default_recipe().lr, 0.3]
    old = fake(Run(head="random", **SMALL))
    del old["lr"]
    assert Run.of(old) == Run(head="random", **SMALL)


def test_full_softmax_has_one_run_whatever_the_rate():
    assert Run("glyphs", "full", rate=0.1) == Run("glyphs", "full", rate=0.5)
    assert Run("glyphs", "random", rate=0.1) != Run("glyphs", "random", rate=0.5)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"head": "nearest"}, "head is 'nearest'"),
        ({"head": "random", "rate": 1.5}, "sample_rate is 1.5"),
        ({"head": "random", "objective": "triplet"}, "objective is 'triplet'"),
        ({"head": "random", "task": "glyfs"}, "task is 'glyfs'"),
    ],
)
def test_a_run_that_cannot_be_is_told_in_one_sentence(fields, words):
    with pytest.raises(ValueError, match=words) as caught:
        runs.train(Run(**{**SMALL, **fields}))
    assert "\n" not in str(caught.value)


def test_the_store_keeps_rows_and_knows_what_is_missing(tmp_path):
    path = tmp_path / "runs.json"
    wanted = [Run(head="random", seed=seed, **SMALL) for seed in (0, 1)]
    store = Store(path)
    assert store.missing([*wanted, *wanted]) == wanted
    store.add(fake(wanted[0]))
    again = Store(path)
    assert again.rows == store.rows and again.missing(wanted) == wanted[1:]
    assert [p.name for p in tmp_path.iterdir()] == ["runs.json"]


def test_missing_runs_are_made_in_processes_and_kept_one_by_one(tmp_path):
    wanted = [Run(head=head, **SMALL) for head in ("random", "full")]
    store = Store(tmp_path / "runs.json")
    store.add(fake(wanted[0]))
    told = []
    runs.train_missing(wanted, store, jobs=2, on_row=told.append)
    assert [Run.of(row) for row in told] == wanted[1:]  # the first was there
    assert Store(tmp_path / "runs.json").rows[wanted[1]] == told[0]
    with pytest.raises(ValueError, match="task is 'glyfs'"):
        runs.train_missing([Run("glyfs", "full")], store)
