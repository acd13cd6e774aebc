"""bench/: what it reports is what was found; the times themselves are not tested."""

import json

import pytest
import torch

from annsoftmax_ref import cli
from annsoftmax_ref.bench import search
from annsoftmax_ref.bench.vectors import clustered_vectors

faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed (extra: peers)")


def test_recall_and_mass_are_those_of_the_ids_found():
    vectors = clustered_vectors(500, 24, 7)
    rows = search.bench_search(
        vectors, k=10, nlist=8, nprobes=[1, 8], against=["faiss"], candidates=[20, 500], rounds=1
    )
    assert len(rows) == 2 * (2 * 2 + 3)
    whole = {row["index"]: row for row in rows if row["nprobe"] == 8 and row["candidates"] != 20}
    for name in ("IVFBinaryIndex, Hamming", "IVFBinaryIndex, 4-bit queries", "FAISS IndexIVFFlat"):
        assert whole[name]["recall"] == 1.0  # all lists, all of them re-ranked
    truth, mass = search._exact(vectors, 500)
    assert mass(truth) == pytest.approx(1.0, abs=1e-5) and mass(truth[:, :0]) == 0.0
    probabilities = (20 * vectors.queries @ vectors.rows.T).softmax(dim=1)
    assert mass(truth[:, :10]) == pytest.approx(probabilities.topk(10).values.sum(dim=1).mean().item(), abs=1e-5)
    assert search._recall(torch.tensor([[1, 2, -1]]), torch.tensor([[2, 3, 4]])) == pytest.approx(1 / 3)
    for row in rows:
        assert row["ms"] > 0 and row["build_ms"] > 0 and row["update_ms"] > 0
    assert all(
        row["recall_after_update"] == 1.0
        for row in whole.values()
        if "FAISS IndexIVFFlat" not in row["index"] and "IVFBinaryIndex" in row["index"]
    )
    best = search.cheapest(rows, 0.99)
    assert {row["index"] for row in best} >= {"IVFBinaryIndex, Hamming", "FAISS IndexIVFFlat"}
    assert all(row["recall"] >= 0.99 for row in best)


@pytest.mark.parametrize("kind", search.FaissIndex.KINDS)
def test_updated_indexes_find_the_rows_where_they_are_now(kind):
    vectors = clustered_vectors(400, 64, 5)
    ids = torch.arange(0, 400, 10)
    moved = vectors.rows.clone()
    moved[ids] = -moved[ids]
    for index in (search.OurIndex(vectors.rows, 4), search.FaissIndex(kind, vectors.rows, 4)):
        found = index.search(moved[ids[:5]], 5, 4, 400)
        assert not (found == ids[:5, None]).any()
        index.update(moved, ids)
        found = index.search(moved[ids[:5]], 5, 4, 400)  # 5: codes alone may mistake a neighbour for it
        assert (found == ids[:5, None]).any(dim=1).all()


def test_bench_search_writes_a_record(capsys):
    assert (
        cli.main(
            [
                "bench",
                "search",
                "--classes",
                "300",
                "--dim",
                "16",
                "--batch",
                "4",
                "--k",
                "5",
                "--nlist",
                "4",
                "--nprobe",
                "2",
                "--json",
                "-",
            ]
        )
        == 0
    )
    record = json.loads(capsys.readouterr().out)
    assert {"index", "classes", "recall", "captured_mass", "ms", "build_ms", "update_ms"} <= set(record["rows"][0])


def test_wrong_calls_end_with_2_and_one_line(capsys):
    for arguments, words in (
        (["--nlist", "301"], "nlist is 301"),
        (["--nprobe", "9", "--nlist", "4"], "nprobe is 9"),
        (["--k", "0"], "k is 0"),
        (["--batch", "-1"], "batch is -1"),
    ):
        assert cli.main(["bench", "search", "--classes", "300", "--dim", "16", *arguments]) == 2
        captured = capsys.readouterr()
        assert words in captured.err and captured.err.count("\n") == 1
