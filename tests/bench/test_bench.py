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
        vectors, k=10, nlists=[4, 8], nprobes=[1, 4], against=["faiss", "hnsw"], candidates=[20, 500], rounds=1
    )
    assert len(rows) == 2 * 2 * (6 * 2 + 1) + 2  # lists, probes; six indexes of codes, one of rows; a graph's two beams
    whole = {row["index"]: row for row in rows if row["nlist"] in (4, None) and row["nprobe"] != 1}
    assert len(whole) == 8
    for row in whole.values():
        assert row["candidates"] != 20 and row["recall"] == pytest.approx(1.0)  # all lists, all of them re-ranked
    truth, mass = search.exact_nearest(vectors, 500)
    assert mass(truth) == pytest.approx(1.0, abs=1e-5) and mass(truth[:, :0]) == 0.0
    probabilities = (20 * vectors.queries @ vectors.rows.T).softmax(dim=1)
    assert mass(truth[:, :10]) == pytest.approx(probabilities.topk(10).values.sum(dim=1).mean().item(), abs=1e-5)
    assert search.recall_of(torch.tensor([[1, 2, -1]]), torch.tensor([[2, 3, 4]])) == pytest.approx(1 / 3)
    for row in rows:
        assert row["ms"] > 0 and row["build_ms"] > 0
        assert row["index"] == "FAISS IndexHNSWFlat" or row["update_ms"] > 0
    graph = whole.pop("FAISS IndexHNSWFlat")
    assert graph["update_ms"] is graph["recall_after_update"] is None  # rows cannot be taken out of it
    assert all(row["recall_after_update"] == pytest.approx(1.0) for row in whole.values())
    assert "| FAISS IndexHNSWFlat" in search.table(rows)


def test_the_frontier_keeps_what_more_time_buys():
    found = [("a", 3, 0.9), ("a", 1, 0.5), ("b", 2, 0.8), ("a", 2, 0.4), ("b", 4, 0.8)]
    rows = [{"index": index, "ms": ms, "recall": recall} for index, ms, recall in found]
    assert search.frontier(rows) == [rows[1], rows[0], rows[2]]


def row(index, ms, recall, update_ms=10):
    return {"index": index, "ms": ms, "recall": recall, "build_ms": 5, "update_ms": update_ms}


def test_a_curve_is_read_between_its_settings():
    front = [row("a", 1, 0.5), row("a", 4, 0.9)]
    assert search.at_recall(front, 0.4) == (1, front[0])  # the fastest has more
    assert search.at_recall(front, 0.7) == (pytest.approx(2), front[1])  # half-way on a logarithmic scale
    assert search.at_recall(front, 0.91) is None and search.at_recall([], 0.1) is None


def test_the_table_of_curves_counts_in_the_rivals_time():
    ours = [row("IVFBinaryIndex, Hamming", 3, 0.7, 2), row("IVFBinaryIndex, Hamming", 9, 0.9, 4)]
    theirs = [row(search.RIVAL, 2, 0.7, 60), row(search.RIVAL, 3, 0.9, 60)]
    text = search.curves_table([*ours, *theirs, row("FAISS IndexHNSWFlat", 1, 0.6, None)])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    cells = {line[0]: line[1:] for line in lines}
    assert cells["index"][:4] == ["50%", "70%", "80%", "90%"]
    assert cells["IVFBinaryIndex, Hamming"] == [
        "3.0 (1.5)",
        "3.0 (1.5)",
        "5.2 (2.1)",
        "9.0 (3.0)",
        "-",
        "-",
        "-",
        "5",
        "2 to 4",
    ]
    assert cells["FAISS IndexHNSWFlat"] == ["1.0 (0.5)", *["-"] * 6, "5", "-"]
    assert search.update_factors([*ours, *theirs]) == [30, 30, 15, 15]
    assert text.endswith("update takes 15 to 30 times ours at equal recall.")
    assert search.update_factors(ours) == [] and "takes" not in search.curves_table(ours)


def test_bench_search_writes_a_record(capsys, tmp_path):
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
                "--plot",
                str(tmp_path / "curves.png"),
            ]
        )
        == 0
    )
    record = json.loads(capsys.readouterr().out)
    assert {"index", "classes", "recall", "captured_mass", "ms", "build_ms", "update_ms"} <= set(record["rows"][0])
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_wrong_calls_end_with_2_and_one_line(capsys):
    for arguments, words in (
        (["--nlist", "301"], "nlist is 301"),
        (["--nprobe", "9", "--nlist", "4"], "nprobe is 9"),
        (["--k", "0"], "k is 0"),
        (["--batch", "-1"], "batch is -1"),
        (["--plot", "curves.txt"], "plot is curves.txt"),
    ):
        assert cli.main(["bench", "search", "--classes", "300", "--dim", "16", *arguments]) == 2
        captured = capsys.readouterr()
        assert words in captured.err and captured.err.count("\n") == 1


def run_json(capsys, *arguments):
    assert cli.main(["bench", *arguments, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


def test_bench_step_times_every_head_and_its_phases(capsys):
    from annsoftmax_ref.bench.heads import STEPS, runnable

    names = runnable(STEPS, torch.device("cpu"))
    record = run_json(
        capsys, "step", "--classes", "600", "--dim", "16", "--batch", "8", "--rounds", "2", "--heads", *names
    )
    assert [row["head"] for row in record["rows"]] == names
    for row in record["rows"]:
        assert row["ms_min"] <= row["ms_median"] <= row["ms_max"] and row["speedup_vs_full"] > 0
    ann = record["rows"][names.index("ann")]
    assert set(ann["phases_ms"]) == {"prepare", "select", "forward", "backward", "update"}
    assert sum(ann["phases_ms"].values()) <= ann["ms_max"]
    assert sum(ann["first_phases_ms"].values()) <= ann["first_ms"]


@pytest.mark.parametrize("half", [False, True])
def test_all_heads_of_the_benchmark_compute_the_same_gradient(half):
    """With every class active they are one function, so the comparison is of equals."""
    from annsoftmax_ref.bench.heads import STEPS, make_step, runnable

    vectors, labels = clustered_vectors(700, 32, 16), torch.arange(16)
    names = runnable(STEPS, torch.device("cpu"))
    gradients = {name: make_step(name, vectors.rows, 1.0, half, groups=1)(vectors.queries, labels) for name in names}
    for name, gradient in gradients.items():
        difference = (gradient - gradients["full"]).norm() / gradients["full"].norm()
        assert difference < (0.03 if half or "bf16" in name else 1e-5), name


def test_bench_growth_fits_an_exponent(capsys):
    record = run_json(
        capsys,
        "growth",
        "--classes",
        "2000",
        "4000",
        "--active",
        "200",
        "--nprobe",
        "4",
        "--dim",
        "16",
        "--batch",
        "16",
        "--rounds",
        "1",
    )
    assert [row["classes"] for row in record["rows"]] == [2000, 4000] and isinstance(record["exponents"]["ann"], float)


def test_bench_soak_watches_memory_loss_and_recall(capsys):
    record = run_json(capsys, "soak", "--minutes", "0.03", "--classes", "20000", "--every", "0.5")
    assert len(record["rows"]) >= 2
    assert all(row["finite"] and 0 < row["recall"] <= 1 and row["steps"] > 0 for row in record["rows"])


def test_bench_upkeep_compares_with_an_index_made_anew(capsys, monkeypatch):
    from annsoftmax_ref.bench import upkeep
    from annsoftmax_ref.datasets import load_glyphs

    monkeypatch.setattr(upkeep, "load_glyphs", lambda progress: load_glyphs(progress=False).subset(600))
    record = run_json(capsys, "upkeep", "--steps", "20", "--every", "10")
    assert [row["step"] for row in record["rows"]] == [10, 20]
    assert all(0 < row["recall"] <= 1 and row["stale_bits"] < 0.05 for row in record["rows"])


def test_bench_kernels_counts_what_each_version_does(capsys):
    from annsoftmax_ref.bench.kernels import ON_GPU

    record = run_json(capsys, "kernels", "--kernels", "sign_codes", "flat_map", "--device", "cpu")
    rows = {(row["kernel"], row["version"]): row for row in record["rows"]}
    assert list(rows) == [("sign_codes", v) for v in (1, 2, 3)] + [("flat_map", v) for v in (1, 2, 3, 4)]
    assert record["ceilings"] == {} and all(row[name] is None for row in rows.values() for name in ON_GPU)
    assert all(row["wrong"] is None and row["what"] and row["global_load_bytes"] > 0 for row in rows.values())
    # What the ladder is about: neighbouring threads on neighbouring addresses, and queries kept in shared memory.
    assert rows["sign_codes", 2]["global_sectors"] * 4 < rows["sign_codes", 1]["global_sectors"]
    assert rows["flat_map", 1]["shared_loads"] == 0 < rows["flat_map", 2]["shared_loads"]
    assert rows["flat_map", 2]["global_load_bytes"] * 4 < rows["flat_map", 1]["global_load_bytes"]
    # The bytes of the formula are those of the ideal kernel: for reading every row once, and writing its code.
    size = rows["sign_codes", 3]["size"]
    assert rows["sign_codes", 3]["bytes"] == size["A"] * (4 * size["d"] + 8 * -(-size["d"] // 64) + 8)


def test_bench_kernels_does_not_hide_a_wrong_result(capsys, monkeypatch):
    from kernels_inline.measured_kernel import MeasuredKernel

    monkeypatch.setattr(MeasuredKernel, "expected_outputs", lambda self, arguments: [arguments[3] * 0 - 1])
    assert cli.main(["bench", "kernels", "--kernels", "row_argmax", "--device", "cpu"]) == 2
    captured = capsys.readouterr()
    assert "row_argmax: best is not as expected at [0]" in captured.out
    assert "the results of row_argmax_1, row_argmax_2, row_argmax_3 are not the expected ones" in captured.err
    assert cli.main(["bench", "kernels", "--kernels", "sort"]) == 2
    assert "kernel is 'sort'; it should be one of sign_codes, " in capsys.readouterr().err


@pytest.mark.gpu
def test_bench_kernels_times_them_beside_the_ceilings(capsys):
    record = run_json(capsys, "kernels", "--kernels", "sign_codes", "flat_map", "--sizes", "small", "--rounds", "3")
    assert record["ceilings"]["copy_gb_per_s"] > 0 and record["ceilings"]["popcount_bits_per_s"] > 0
    for row in record["rows"]:
        assert row["wrong"] is None and 0 < row["ms_min"] <= row["ms_median"] <= row["ms_max"]
