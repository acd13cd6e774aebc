"""clock.py: seconds to an accuracy, and which runs the table "converged" is made of and told from."""

import pytest

from annsoftmax_ref.experiments import clock
from annsoftmax_ref.experiments.phases import STAGES
from annsoftmax_ref.experiments.runs import Store


def line(row):
    """A run's history: up in a straight line to its accuracy at its end."""
    return row | {"history": [{"seconds": row["seconds"], "accuracy": row["accuracy"]}]}


def trained(run, accuracy, seconds=100.0):
    row = {**vars(run), "options": dict(run.options), "metrics": {}, "accuracy": accuracy, "seconds": seconds}
    return line(row | {"phases_ms": dict.fromkeys(STAGES, seconds / 40)})


@pytest.fixture
def store(tmp_path):
    """A store with every run of seed 0, better at the first learning rate for full and at the second for all others."""
    store = Store(tmp_path / "runs.json")
    for run in all_runs():
        if run.seed == 0:
            good = run.lr == clock.LEARNING_RATES[run.head != "full"]
            store.rows[run] = trained(run, 0.98 if good else 0.9)
    return store


def all_runs():
    return [run for runs in clock.converged_cells().values() for run in runs]


def found(store):
    return {
        labels: [store.rows[run] for run in runs if run in store.rows]
        for labels, runs in clock.converged_cells().items()
    }


def test_seconds_to_an_accuracy_are_read_off_the_line_between_looks():
    row = {"history": [{"seconds": 10.0, "accuracy": 0.4}, {"seconds": 20.0, "accuracy": 0.9}]}
    assert clock.seconds_to(row, 0.4) == 10.0 and clock.seconds_to(row, 0.65) == pytest.approx(15.0)
    assert clock.seconds_to(row, 0.2) == pytest.approx(5.0) and clock.seconds_to(row, 0.95) is None
    assert clock.mean_seconds_to([row, row], 0.4) == 10.0 and clock.mean_seconds_to([], 0.4) is None


def test_learning_rates_are_chosen_with_seed_0_and_kept_for_the_other_seeds(store, tmp_path):
    empty = Store(tmp_path / "empty.json")
    assert {run.seed for run in all_runs() if clock.needed(run, empty)} == {0}
    later = [run for run in all_runs() if run.seed and clock.needed(run, store)]
    # Full and its check at the first rate; ann, at two rates of classes, at the second.
    assert [(run.seed, run.epochs, run.lr) for run in later if run.head == "full"] == [
        (1, clock.EPOCHS, clock.LEARNING_RATES[0]),
        (2, clock.EPOCHS, clock.LEARNING_RATES[0]),
        (1, 2 * clock.EPOCHS, clock.LEARNING_RATES[0]),
    ]
    assert {run.head for run in later} == {"full", "ann"} and len(later) == 3 + 4
    assert {run.lr for run in later if run.head == "ann"} == {clock.LEARNING_RATES[1]}


@pytest.mark.parametrize("more, verdict", [(0.004, "it is trained"), (0.006, "it is not trained")])
def test_the_report_says_whether_full_is_trained_out_and_how_much_sooner_ann_is(store, more, verdict):
    for run in all_runs():
        if run.seed and clock.needed(run, store):
            seconds = 25.0 if run.head == "ann" else 100.0
            store.rows[run] = trained(run, 0.98 + more * (run.epochs != clock.EPOCHS), seconds)
    for run, row in store.rows.items():
        if run.head == "ann":
            store.rows[run] = line(row | {"seconds": 25.0})
    text = clock.report_converged(found(store))
    assert f"With twice the steps full softmax ends {100 * more:.1f} points higher (seed 1); " in text
    assert f"{verdict} to its end here." in text
    assert "ann, 1/10: 4.0 times sooner at 88 %, 4.0 times sooner at 93 %" in text
    assert "4.0 times sooner at the last step than full softmax." in text
    assert "random, 1/50 90.0 and 98.0" in text and "full, all 98.0 and 90.0" in text
    head = next(part for part in text.splitlines() if part.startswith("| forest, 1/50"))
    assert [cell.strip() for cell in head.split("|")[2:-1]] == [
        *("90", "95", "99", "100", "98.0", "1.6", "10.0"),
        *["2.5"] * 4,
    ]


def test_a_head_that_never_gets_there_has_no_time(store):
    for run, row in store.rows.items():
        if run.head == "random":
            store.rows[run] = line(row | {"accuracy": 0.9})
    text = clock.report_converged(found(store))
    cells = next(part for part in text.splitlines() if part.startswith("| random, 1/10")).split("|")
    assert [cell.strip() for cell in cells[2:6]] == ["98", "-", "-", "100"]
