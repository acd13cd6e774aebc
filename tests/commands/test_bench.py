"""commands/bench.py and kernels.py: an interruption does not take what was measured before it."""

import json

from annsoftmax_ref import cli
from annsoftmax_ref.bench import kernels
from annsoftmax_ref.commands import bench

LOOK = {"minutes": 1.0, "steps": 9, "rss_mb": 1.0, "loss": 1.0, "recall": 0.5, "finite": True}
UPKEEP = {"step": 100, "recall": 0.5, "recall_rebuilt": 0.5, "code_age": 1.0, "stale_bits": 0.0}


def after_one(row, name):
    """A benchmark that tells of a row, and then is interrupted."""

    def run(*arguments, **named):
        (named[name] if name in named else arguments[-1])(row)
        raise KeyboardInterrupt

    return run


def interrupted(arguments, tmp_path):
    assert cli.main(["bench", *arguments, "--json", str(tmp_path / "a.json")]) == 130
    return json.loads((tmp_path / "a.json").read_text())


def test_half_an_hour_of_soaking_that_is_interrupted_leaves_its_record(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "bench_soak", after_one(LOOK, "on_look"))
    assert interrupted(["soak"], tmp_path)["rows"] == [LOOK]


def test_an_interrupted_upkeep_leaves_record_and_plot(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "bench_upkeep", after_one(UPKEEP, "on_look"))
    assert interrupted(["upkeep", "--plot", str(tmp_path / "a.png")], tmp_path)["rows"] == [UPKEEP]
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_interrupted_kernels_leave_those_that_were_counted(tmp_path, monkeypatch, capsys):
    def counted(kernel, version):
        if kernel.name != "sign_codes":
            raise KeyboardInterrupt
        return before(kernel, version)

    before = kernels._counts
    monkeypatch.setattr(kernels, "_counts", counted)
    record = interrupted(["kernels", "--kernels", "sign_codes", "flat_map", "--device", "cpu"], tmp_path)
    assert {row["kernel"] for row in record["rows"]} == {"sign_codes"} and record["ceilings"] == {}
    assert "| sign_codes_1 " in capsys.readouterr().out
