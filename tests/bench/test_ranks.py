"""A step on one process and on two, timed in turn."""

import pytest

from annsoftmax_ref.bench.ranks import bench_ranks, table


@pytest.mark.slow
def test_rows_of_a_small_run():
    rows = bench_ranks(3000, 16, 8, 0.1, ["full", "ann"], ranks=2, half=False, rounds=2)
    assert [row["head"] for row in rows] == ["full", "ann"]
    for row in rows:
        assert row["speedup"] == row["one_ms"] / row["split_ms"]
        assert row["one_ms"] == min(row["one"].values())
        # Features of 4 samples of 16 float32; their gradient; labels.
        assert {what: row["received"][what] for what in ("features", "gradient", "labels")} == {
            "features": 256,
            "gradient": 256,
            "labels": 32,
        }
        if row["loopback"] is not None:  # of both, with gloo's reduce-scatter at twice the ring's bytes
            assert row["loopback"] > 2 * (sum(row["received"].values()) + row["received"]["gradient"])
    assert "times faster" in table(rows)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="^batch is 7; it should be a multiple of ranks, 2"):
        bench_ranks(3000, 16, 7, 0.1, ["ann"], ranks=2, half=False)
