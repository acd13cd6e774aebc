"""bench/predict.py: every index is asked at its fastest setting with enough recall, and weighed with what it needs."""

import json
from importlib.util import find_spec

import pytest
import torch

from annsoftmax_ref import cli
from annsoftmax_ref.bench import predict
from annsoftmax_ref.bench.vectors import clustered_vectors

pytest.importorskip("faiss", reason="faiss-cpu is not installed (extra: peers)")
N, D, K = 1000, 64, 5


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "PROBES", (2, 16))
        patch.setattr(predict, "CANDIDATES", (8, 40))
        patch.setattr(predict, "SINGLE", 4)
        return predict.bench_predict(clustered_vectors(N, D, 12), K, [16], ["faiss", "hnsw"], 0.9, 1, (8,), rounds=1)


def test_all_have_the_recall_that_was_asked_for_at_their_fastest_setting(found):
    rows, settings = found
    names = [predict.EXACT, predict.OURS, *(f"FAISS {kind}" for kind in predict.LISTS), "FAISS IndexHNSWFlat, M = 8"]
    assert [row["index"] for row in rows] == 2 * names and [row["queries"] for row in rows] == [1] * 6 + [12] * 6
    for row in rows:
        own = [s for s in settings if s["index"] == row["index"]]
        enough = [s["looked_ms"][str(row["queries"])] for s in own if s["recall"] >= 0.9]
        mine = next(s for s in own if (s["nprobe"], s["candidates"]) == (row["nprobe"], row["candidates"]))
        assert row["recall"] >= 0.9 and row["ms"] > 0 and mine["looked_ms"][str(row["queries"])] == min(enough)
    assert rows[0]["recall"] == 1 and torch.get_num_threads() == 1


def test_memory_is_counted_with_the_rows_that_a_search_reads(found):
    mb = {row["index"]: (row["index_mb"], row["total_mb"]) for row in found[0]}
    rows = N * D * 4 / 1e6
    assert mb[predict.EXACT] == (0, rows)
    for name in (predict.OURS, "FAISS IndexIVFPQFastScan"):  # codes alone, and the head's rows
        assert 0.01 * rows < mb[name][0] < rows and mb[name][1] == pytest.approx(mb[name][0] + rows)
    for name in ("FAISS IndexIVFFlat", "FAISS IndexHNSWFlat, M = 8"):  # which have rows of their own
        assert rows < mb[name][0] < 2 * rows and mb[name][1] == mb[name][0]


def test_where_no_setting_has_enough_there_is_no_time_but_the_most_that_was_found(found, monkeypatch):
    monkeypatch.setattr(predict, "PROBES", (1,))
    monkeypatch.setattr(predict, "CANDIDATES", (1, 2))
    rows, settings = predict.bench_predict(clustered_vectors(N, D, 12), K, [16], [], 0.999, rounds=1)
    ours = [row for row in rows if row["index"] == predict.OURS]
    assert all(row["ms"] is None and row["recall"] == max(s["recall"] for s in settings[1:]) < 0.999 for row in ours)
    assert "| -  " in predict.table(rows).splitlines()[3]
    lines = predict.table(found[0]).splitlines()
    assert len(lines) == 8 and "1 query, ms" in lines[0] and "12 queries, ms" in lines[0] and "lists, " in lines[3]


def test_scann_takes_part_where_it_is_installed(capsys, monkeypatch):
    if find_spec("scann") is None:
        assert cli.main(["bench", "predict", "--classes", "500", "--against", "scann"]) == 2
        assert "against has scann, which is not installed" in capsys.readouterr().err
        return
    monkeypatch.setattr(predict, "PROBES", (16,))
    rows, _ = predict.bench_predict(clustered_vectors(N, D, 12), K, [16], ["scann"], 0.9, rounds=1)
    (row,) = [row for row in rows if row["index"] == "ScaNN" and row["queries"] == 12]
    assert row["recall"] > 0.9 and row["ms"] > 0 and row["total_mb"] == row["index_mb"] > N * D * 4 / 1e6


def test_the_command_writes_its_record(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(predict, "PROBES", (4,))
    monkeypatch.setattr(predict, "CANDIDATES", (20,))
    call = ["bench", "predict", "--classes", "500", "--dim", "32", "--batch", "4", "--k", "2", "--rounds", "1"]
    assert cli.main([*call, "--nlist", "8", "--json", str(tmp_path / "a.json")]) == 0
    said = capsys.readouterr().out
    assert (
        "head.topk, approximate, 8 lists: made in" in said
        and "recall@2 of at least 95%, threads of a search: 1" in said
    )
    record = json.loads((tmp_path / "a.json").read_text())
    assert len(record["rows"]) == 4 and len(record["settings"]) == 2 and "clusters of 50" in record["vectors"]


def test_wrong_calls_end_with_2_and_one_line(capsys):
    for arguments, words in (
        (["--k", "501"], "k is 501; it should be at most the number of classes, 500"),
        (["--recall", "1"], "recall is 1.0; it should be above 0 and below 1"),
        (["--threads", "0"], "threads is 0; it should be at least 1"),
        (["--nlist", "501"], "nlist is 501; it should be at most the number of rows, 500"),
    ):
        assert cli.main(["bench", "predict", "--classes", "500", "--dim", "16", *arguments]) == 2
        assert words in capsys.readouterr().err
