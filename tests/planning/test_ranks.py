"""One of many processes: its part, its memory beside what torch's allocator gave, and how few are enough."""

from dataclasses import replace

import pytest
from allocations import most_allocated

from annsoftmax_ref.bench.capacity import TrainedPart
from annsoftmax_ref.bench.one_of_many import one_of_many
from annsoftmax_ref.planning.memory import Training, kept, moments, total
from annsoftmax_ref.planning.ranks import fewest, rank_of, shares, whole_nodes
from kernels_inline import build

PAPER = Training(300_000_000, 512, 16_384, flat=1)


def test_a_process_has_its_part_and_all_samples():
    rank = rank_of(PAPER, 256)
    assert (rank.classes, rank.active, rank.batch, rank.sets) == (1_171_875, 117_188, 16_384, 1)
    assert rank.batch * rank.active == pytest.approx(PAPER.batch * PAPER.active / 256, rel=1e-5)
    few = Training(100_000, 64, 1024, rate=0.01)
    assert rank_of(few, 16).sets == few.sets > 1  # as many groups as one process has
    assert 64 / 16 < rank_of(few, 16).candidates < 64 / 4 < few.candidates  # and some to spare


def test_a_number_is_split_as_the_classes_are():
    for classes, ranks in ((1003, 4), (3, 5), (300_000_000, 256)):
        parts = shares(classes // 3, classes, ranks)
        assert len(parts) == ranks and sum(parts) == classes // 3 and max(parts) - parts[0] <= 1
    assert shares(3, 3, 5) == [1, 1, 1, 0, 0]


def test_one_of_one_is_planned_as_a_head_that_is_not_split_and_the_gathered_samples():
    job = Training(1_000_000, 128, 512, flat=1)
    rank = rank_of(job, 1)
    assert kept(rank) == kept(job)
    assert moments(rank) == {moment: count + rank.gathered for moment, count in moments(job).items()}


@pytest.mark.skipif(not build.available(), reason=str(build.why_not()))
@pytest.mark.parametrize(
    "ranks, job",
    [
        pytest.param(16, Training(160_000, 256, 16, groups=1), id="rows are most of a step"),
        pytest.param(16, Training(160_000, 256, 16, groups=4, storage="bf16"), id="rows of groups are"),
        pytest.param(16, Training(160_000, 512, 512, rate=0.004, groups=1), id="samples are"),
        pytest.param(64, Training(128_000, 64, 1024, rate=0.02), id="the table of candidates is"),
        pytest.param(16, Training(640_000, 64, 1024), id="logits are"),
        pytest.param(2, Training(80_000, 64, 256, products="fp32"), id="logits in float32 are"),
    ],
)
def test_what_is_planned_of_a_process_is_within_a_tenth_of_what_is_allocated(ranks, job):
    with one_of_many(ranks // 2, ranks) as group:
        trained = TrainedPart(job, group=group)
        for _ in range(3):
            trained()
        rank, parts = rank_of(job, ranks), trained.parts()
        for part, count in parts.items():
            near = 0.2 if part.startswith("lists") else 0  # how long the longest list is depends on the rows
            assert kept(rank)[part] == pytest.approx(count, rel=near), part
        assert total(rank) == pytest.approx(sum(parts.values()) + most_allocated(trained), rel=0.1)


def test_fewer_processes_than_the_fewest_do_not_hold_it():
    for each in (None, 64):
        room = 80 * 10**9
        few = fewest(PAPER, room, each)
        needed = [total(rank_of(replace(PAPER, batch=each * P) if each else PAPER, P)) for P in (few - 1, few)]
        assert needed[0] > room >= needed[1]
    assert fewest(PAPER, room, 64) < fewest(PAPER, room)  # for so few, a batch of 16,384 is a large one
    assert fewest(Training(1000, 64, 32), room) == 1
    assert fewest(PAPER, 10**7) is None  # everybody's samples alone are more
    assert [whole_nodes(ranks) for ranks in (1, 8, 9)] == [1, 1, 2]
