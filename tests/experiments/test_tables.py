"""tables.py and the plots of tables: no cell is blank, no line is missing."""

import itertools

import pytest

from annsoftmax_ref.experiments import crossed, phases, records, runs, settings, tables
from annsoftmax_ref.experiments.runs import Run, Store
from annsoftmax_ref.factory import make_head

UNSEEN = ("recall_at_1", "tar_at_far_1e-3", "rank1")
ITEMS = ("recall_at_10", "recall_at_20", "ndcg_at_10", "mrr", "best_recall_at_10")
COUNTER = itertools.count()


def made_up(run: Run) -> dict:
    """A row with the fields of a real one; accuracy tells the seed, the rest counts up."""
    value = 0.5 + run.seed / 100
    names = ("accuracy", "top5", "top10", "perplexity", "head", "middle", "tail", *UNSEEN, *ITEMS)
    looks = {name: [0.1, 0.2, 0.3] for name in runs.LOOKS}
    return {
        **vars(run),
        "options": dict(run.options),
        "accuracy": value,
        "metrics": dict.fromkeys(names, value),
        "num_classes": 4719,
        "environment": {"python": "3.11.7", "numpy": "2.4.6"},
        "seconds": 10.0,
        "head_ms": 1.0 + next(COUNTER),
        "phases_ms": dict.fromkeys(phases.STAGES, 0.5),
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
    mean = "54.0 ± 1.0" if name == "confirmed" else "51.0 ± 1.0"  # seeds 3, 4, 5; seeds 0, 1, 2 -> 50, 51, 52 %
    assert mean in text or name == "training"


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
        assert made == set(itertools.product(settings.HEADS, settings.OBJECTIVES, (0, 1, 2)))


@pytest.mark.parametrize("name", [n for n, table in tables.TABLES.items() if table.draw and n != "searches"])
def test_plots_show_every_line(name, store):
    table = tables.TABLES[name]
    figure = table.draw(table.found(store))
    shown = {text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()}
    expected = {labels[0] for labels in table.cells} - ({"full"} if name == "training" else set())
    assert expected <= shown
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)


def test_the_picture_of_searches_has_a_panel_without_groups_and_one_with_them(store, tmp_path, monkeypatch):
    costs = [
        {"head": head, "by_rule": by_rule, "classes": 20_000, "rate": rate, "ms": 1 / rate}
        for head, by_rule, rate in itertools.product(settings.HEADS, (False, True), (0.05, 0.02, 0.005))
    ]
    monkeypatch.setattr(crossed, "COSTS", tmp_path / "searches.json")
    records.write_rows(costs, crossed.COSTS)
    table = tables.TABLES["searches"]
    one, several = table.draw(table.found(store)).axes
    assert one.get_title() != several.get_title()
    for axes in (one, several):
        assert axes.get_xlabel() and axes.get_ylabel() and len(axes.containers) == len(settings.HEADS)
    shown = [text.get_text() for text in several.get_legend().get_texts()]
    assert sorted(shown) == sorted(settings.HEADS)
    points = several.containers[0].lines[0].get_xdata()
    assert points.tolist() == [20.0, 50.0, 200.0]


def test_searches_are_compared_at_equal_groups_and_with_themselves_without(store):
    for run, row in store.rows.items():  # groups bring everybody 2 points, and random half a point less than ann
        grouped = run.head != "full" and (run.head == "ann") != (dict(run.options).get("groups") is not None)
        row["accuracy"] += 0.02 * grouped - 0.005 * (run.head == "random")
        row["metrics"] = {"accuracy": row["accuracy"]}
    text = tables.TABLES["searches"].render(store)
    assert "ann, far=False, groups is 0.5 ± 0.0 ahead of random, groups" in text
    assert text.count("random 2.0 ± 0.0, lsh 2.0 ± 0.0, forest 2.0 ± 0.0, knn 2.0 ± 0.0, ann, far=False 2.0 ± 0.0") == 5


@pytest.mark.parametrize("points, words", [(-0.4, "ann holds full"), (-0.6, "ann does not hold full"), (2, "holds")])
def test_whether_ann_holds_full_softmax_on_words_is_said_whichever_way_it_went(store, points, words):
    for run, row in store.rows.items():
        if run.task == "words" and (run.head, run.rate, run.options) == ("ann", 0.1, ()):
            row["metrics"]["accuracy"] += points / 100
    text = tables.TABLES["language"].render(store)
    assert words in text and "4,719 words, of Python 3.11.7's and NumPy 2.4.6's." in text
    assert f"it is {abs(points):.1f} ± 0.0 {'behind' if points < 0 else 'ahead'}, over 3 pairs" in text
