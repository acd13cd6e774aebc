"""training.py: whole steps of training, each part of them timed."""

import pytest
import torch

from annsoftmax_ref.bench import training
from annsoftmax_ref.bench.resnet import ResNet50


@pytest.fixture(scope="module")
def rows():
    return training.bench_training(600, [0.2, 0.1], list(training.HEADS), half=False, rounds=2, dim=16, batch=16)


def test_each_head_at_each_rate_has_its_parts_and_its_share_of_the_backbone(rows):
    assert [row["head"] for row in rows] == 2 * list(training.HEADS)
    assert [row["rate"] for row in rows] == [1.0, *[0.2] * 4, 1.0, *[0.1] * 4]
    for row in rows:
        parts = row["phases_ms"]
        assert set(parts) == {"data", "backbone", "head"} and min(parts.values()) > 0
        assert row["backbone_share"] == pytest.approx((parts["data"] + parts["backbone"]) / row["ms"])
        assert row["steps_per_second"] == pytest.approx(1000 / row["ms"]) and row["rounds"] == 2
        assert row["ms"] == pytest.approx(row["ms_median"] + row["rebuilding_ms"])
        assert (row["rebuilding_ms"] > 0) == (row["head"] == "forest")
    for full, *others in (rows[:5], rows[5:]):
        assert full["speedup_vs_full"] == 1.0
        assert all(row["speedup_vs_full"] == pytest.approx(full["ms"] / row["ms"]) for row in others)


def test_the_backbone_learns_from_the_heads_gradient():
    trainer = training.TimedTraining(600, 16, 8, half=False, seed=0, device=torch.device("cpu"), backbone="small")
    near, labels = trainer.new_batch()
    before = [p.clone() for p in trainer.backbone.model.parameters()]
    step = training.make_step("random", trainer.weight, 0.2, False)
    trainer.step(step, near, labels)
    assert not any(a.equal(b) for a, b in zip(before, trainer.backbone.model.parameters(), strict=True) if a.dim() > 1)
    assert trainer.backbone.data.train.batch(labels * 6)[1].equal(
        labels
    )  # the drawings are of the classes that are scored


def test_the_table_tells_the_ratio_at_the_most_classes(rows):
    rows = [row | {"speedup_vs_full": 2.0} for row in rows]  # whichever was faster here, the two do not cross
    text = training.table([*rows, {**rows[4], "classes": 900, "speedup_vs_full": 4.35}])
    assert text.count("\n| 600 ") == 10 and "| 900 " in text
    assert text.endswith("End to end, at 900 classes, ann trains faster than full by 4.3 times at a rate of 0.2.")
    assert "End to end" not in training.table(rows[:3])


def test_the_crossover_lies_between_what_was_measured():
    def row(classes, speedup, rate=0.1):
        return {"head": "ann", "classes": classes, "rate": rate, "speedup_vs_full": speedup}

    rows = [row(1_000_000, 4.0), row(100, 0.25), row(10_000, 0.5), row(100, 2.0, 0.2), row(10_000, 4.0, 0.2)]
    assert training.crossover(rows, 0.1) == pytest.approx(10_000 * 100 ** (1 / 3))
    assert training.crossover(rows, 0.2) is None
    assert training.finding(rows).endswith(
        "4.0 times at a rate of 0.1. At a rate of 0.1 the two cross at about 46,416."
    )


def test_a_backbone_of_usual_size():
    rows = training.bench_training(
        100, [0.2], ["full", "full_kernels", "ann"], half=False, rounds=1, dim=16, batch=2, backbone="resnet50"
    )
    assert [row["backbone"] for row in rows] == ["resnet50"] * 3
    assert sum(p.numel() for p in ResNet50(512).parameters()) == 23_508_032 + 2048 * 512 + 512  # torchvision's, and fc
    assert max(row["speedup_vs_full"] for row in rows[:2]) == 1.0  # the faster of those that score all classes
