"""commands/steps.py: what is measured is written, and what can be checked is checked before."""

import json

import pytest
import torch

from annsoftmax_ref import cli
from annsoftmax_ref.bench import growth, training
from annsoftmax_ref.bench.heads import make_step
from annsoftmax_ref.beyond.priority import Priority


def interrupted(arguments, tmp_path):
    assert cli.main([*arguments, "--json", str(tmp_path / "a.json")]) == 130
    return json.loads((tmp_path / "a.json").read_text())


def test_an_interrupted_growth_leaves_the_sizes_that_were_measured(tmp_path, monkeypatch, capsys):
    def measured(classes, *rest, **named):
        if classes > 200:
            raise KeyboardInterrupt
        return [{"head": "ann", "classes": classes, "ms_median": float(classes)}]

    monkeypatch.setattr(growth, "bench_step", measured)
    record = interrupted(["bench", "growth", "--classes", "300", "100", "200", "--active", "10"], tmp_path)
    assert [row["classes"] for row in record["rows"]] == [100, 200] and record["exponents"] == {
        "ann": pytest.approx(1.0)
    }
    assert "to the power 1.00" in capsys.readouterr().out


def test_growth_below_the_active_classes_is_told_before_anything_is_measured(capsys):
    assert cli.main(["bench", "growth", "--classes", "100", "50", "--active", "60"]) == 2
    captured = capsys.readouterr()
    assert (
        captured.out == "" and "active is 60; it should be at most the smallest number of classes, 50" in captured.err
    )


def test_growth_scores_as_many_classes_or_as_large_a_share(monkeypatch):
    asked = []

    def measured(classes, dim, batch, rate, heads, half, rounds, **options):
        asked.append((classes, rate, heads, options["groups"], options["nprobe"]))
        return [{"head": head, "classes": classes, "ms_median": 1.0} for head in heads]

    monkeypatch.setattr(growth, "bench_step", measured)
    assert cli.main(["bench", "growth", "--classes", "100", "50", "--active", "10"]) == 0
    assert asked == [(50, 0.2, ["ann"], 1, 64), (100, 0.1, ["ann"], 1, 64)]
    del asked[:]
    assert cli.main(["bench", "growth", "--classes", "50", "--rate", "0.3", "--heads", "full", "ann"]) == 0
    assert asked == [(50, 0.3, ["full", "ann"], None, None)]


def test_growth_of_full_and_ann_is_drawn(tmp_path, capsys):
    plot = tmp_path / "a.png"
    call = ["bench", "growth", "--classes", "400", "800", "--rate", "0.2", "--heads", "full", "ann", "--dim", "16"]
    assert cli.main([*call, "--batch", "8", "--rounds", "1", "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    assert plot.read_bytes()[:4] == b"\x89PNG" and "full: time grows" in out and "ann: time grows" in out


def test_training_that_is_interrupted_leaves_the_sizes_before(tmp_path, monkeypatch, capsys):
    row = training.bench_training(300, [0.3], ["full", "ann"], False, rounds=1, dim=16, batch=16)

    def measured(classes, *rest, **named):
        if classes > 300:
            raise KeyboardInterrupt
        return row

    monkeypatch.setattr(training, "bench_training", measured)
    record = interrupted(["bench", "training", "--classes", "300", "400"], tmp_path)
    assert [(found["head"], found["classes"]) for found in record["rows"]] == [("full", 300), ("ann", 300)]
    assert "| ann " in capsys.readouterr().out


STEP = ["step", "--classes", "300", "--dim", "16", "--batch", "8", "--rounds", "1"]


def test_a_step_s_options_go_to_the_heads_that_have_them_and_into_their_rows(tmp_path):
    call = [
        "bench",
        *STEP,
        "--heads",
        "full",
        "random",
        "forest",
        "ann",
        "ann_tail",
        "--json",
        str(tmp_path / "a.json"),
    ]
    flags = ["--option", "nlist=9", "--nlist", "4", "--option", "tail=0.5", "--option", "trees=3"]
    assert cli.main([*call, *flags]) == 0
    rows = {row["head"]: row["options"] for row in json.loads((tmp_path / "a.json").read_text())["rows"]}
    ann = {"nlist": 4, "tail": 0.5}
    assert rows == {"full": {}, "random": {}, "forest": {"trees": 3}, "ann": ann, "ann_tail": ann | {"tail": 0.1}}


@pytest.mark.parametrize(
    "call",
    [
        ["growth", "--classes", "600", "900", "--rate", "0.5", "--batch", "8", "--dim", "16"],
        ["training", "--classes", "900", "--rates", "0.5", "--batch", "8"],
        ["searches", "--classes", "900", "--rates", "0.5", "--batch", "8"],
        ["ranks", "--classes", "900", "--rate", "0.5", "--batch", "8", "--dim", "16"],
    ],
    ids=lambda call: call[0],
)
def test_every_bench_of_steps_takes_options(call, tmp_path):
    flags = ["--heads", "random", "ann", "--rounds", "1", "--option", "nlist=9", "far=false", "--json"]
    assert cli.main(["bench", *call, *flags, str(tmp_path / "a.json")]) == 0
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert {row["head"] for row in rows} == {"random", "ann"}
    given = {"nlist": 9, "far": False}
    for row in rows:
        options = row["options"].items()
        assert options >= given.items() if row["head"] == "ann" else not options


def test_the_options_are_those_of_the_selector_that_is_timed():
    rows = torch.randn(200, 16)
    ann = make_step("ann_priority", rows, 0.1, False, nlist=4, nprobe=2, trees=3).head.selector
    assert (ann.nlist, ann.nprobe) == (4, 2) and isinstance(ann.option, Priority)
    with pytest.raises(ValueError, match="options has 'probes', and the head random has grouping, the head lsh has"):
        make_step("ann", rows, 0.1, False, probes=2)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([*STEP, "--heads", "full", "--nprobe", "3"], "options has 'nprobe', and the head full has none"),
        ([*STEP, "--heads", "full", "random", "--option", "tail=0.1"], "options has 'tail', and the head random has"),
        ([*STEP, "--heads", "full", "ann", "--option", "nprobe=0"], "nprobe is 0; it should be at least 1"),
        ([*STEP, "--heads", "ann", "--candidates", "x"], "candidates is 'x'; it should be a whole number"),
        ([*STEP, "--option", "busy=1"], "options has 'busy'"),
        (["growth", "--rate", "0.1", "--option", "busy=1"], "options has 'busy'"),
        (["training", "--heads", "full", "--option", "nprobe=3"], "options has 'nprobe', and the head full has none"),
        (["searches", "--option", "nprobe=0"], "nprobe is 0; it should be at least 1"),
        (["ranks", "--option", "nprobe"], "option is 'nprobe'; it should be NAME=VALUE"),
        (["growth", "--classes", "0"], "classes is 0"),
        (["growth", "--active", "0"], "active is 0"),
        (["growth", "--rate", "1.5"], "sample_rate is 1.5"),
        (["growth", "--rate", "0.1", "--active", "5"], "not allowed with argument"),
        (["training", "--rates", "0"], "sample_rate is 0"),
        (["training", "--classes", "-1"], "classes is -1"),
    ],
)
def test_bad_calls_end_in_one_line(arguments, words, capsys):
    try:
        code = cli.main(["bench", *arguments])
    except SystemExit as ended:
        code = ended.code
    captured = capsys.readouterr()
    assert code == 2 and captured.out == "" and words in captured.err and captured.err.count("\n") == 1
