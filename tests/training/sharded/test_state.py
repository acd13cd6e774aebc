"""What is saved goes on: with as many processes bit for bit, with others from the same weights, states and codes."""

import pytest
import torch
from ranks import on_ranks
from sharded_runs import OPTIMIZERS, SELECTORS, all_of, differences, joined, new_run, raw_rows, train

from annsoftmax_ref.training.sharded import Checkpoints


def goes_on_twice(folder, group, rank, **options) -> None:
    through = new_run(group=group, **options)
    train(through, 0, 3, rank)
    with Checkpoints(folder, group) as shelf:
        for step in (3, 6):
            shelf.save(step, through, {"step": step, "epoch": 0})
            resumed = new_run(group=group, **options)
            assert shelf.load(resumed) == {"step": step, "epoch": 0}
            assert differences(all_of(through, group), all_of(resumed, group)) == []
            assert train(through, step, step + 3, rank) == train(resumed, step, step + 3, rank)
            assert differences(all_of(through, group), all_of(resumed, group)) == []
            through = resumed  # what was resumed is saved next


@pytest.mark.parametrize("num_classes", [10, 3, 103])
@pytest.mark.parametrize("ranks", [2, 4])
def test_as_many_processes_go_on_bit_for_bit_twice_in_a_row(ranks, num_classes, tmp_path):
    on_ranks(ranks, lambda rank, group: goes_on_twice(tmp_path, group, rank, num_classes=num_classes))


@pytest.mark.parametrize("selector", SELECTORS)
def test_every_selector_goes_on_bit_for_bit(selector, tmp_path):
    goes_on_twice(tmp_path / "one", None, 0, selector=selector)
    on_ranks(3, lambda rank, group: goes_on_twice(tmp_path / "three", group, rank, selector=selector))


@pytest.mark.parametrize(
    "optimizer, dtype",
    [*((name, torch.float32) for name in OPTIMIZERS), ("adamw", torch.bfloat16), ("int8", torch.float8_e4m3fn)],
)
def test_every_optimizer_and_kind_of_rows_goes_on_bit_for_bit(optimizer, dtype, tmp_path):
    options = dict(optimizer=optimizer, dtype=dtype, bias=False)
    goes_on_twice(tmp_path / "one", None, 0, **options)
    on_ranks(2, lambda rank, group: goes_on_twice(tmp_path / "two", group, rank, **options))


@pytest.mark.parametrize("num_classes", [9, 10, 3, 1003])
def test_what_any_number_of_processes_saves_any_number_opens(num_classes, tmp_path):
    """All 16 pairs; shards may be empty."""
    for saving in (1, 2, 3, 4):

        def save(rank, group):
            run = new_run(num_classes, group)
            train(run, 0, 3, rank)
            with Checkpoints(tmp_path / str(saving), group) as shelf:  # noqa: B023
                shelf.save(3, run, {"step": 3})
                return all_of(run, group)

        saved = joined(on_ranks(saving, save))
        for opening in (1, 2, 3, 4):

            def open_and_train(rank, group):
                run = new_run(num_classes, group, seed=5)
                with Checkpoints(tmp_path / str(saving), group) as shelf:  # noqa: B023
                    assert shelf.load(run) == {"step": 3}
                codes = raw_rows(run)
                found = all_of(run, group) | codes
                losses = train(run, 3, 6, rank)
                run.head.sync()
                if len(run.head.weight):
                    assert run.head.selector.index.stale_bits(run.head.weight) == 0
                return found, losses

            opened = on_ranks(opening, open_and_train)
            found = joined([part for part, _ in opened])
            assert differences(saved, found) == [], (saving, opening)
            assert all(losses == opened[0][1] for _, losses in opened)
            assert torch.tensor(opened[0][1]).isfinite().all()


def test_one_process_without_a_group_and_a_group_of_one_open_each_others(tmp_path):
    alone = new_run(10)
    train(alone, 0, 3)
    with Checkpoints(tmp_path) as shelf:
        shelf.save(3, alone, {})
    expected = joined([all_of(alone)])

    def open_it(rank, group):
        run = new_run(10, group)
        with Checkpoints(tmp_path, group) as shelf:
            shelf.load(run)
            assert differences(expected, joined([all_of(run, group)])) == ["same/head.common"]
            shelf.save(4, run, {})

    on_ranks(1, open_it)
    with Checkpoints(tmp_path) as shelf:
        again = new_run(10)
        shelf.load(again)
    assert differences(expected, joined([all_of(again)])) == []


def test_generators_of_ones_own_go_on_or_start_anew_by_step_and_process(tmp_path):
    def drawn(rank, group, folder, save):
        run = new_run(10, group)
        run.generators["dropout"] = torch.Generator().manual_seed(rank)
        with Checkpoints(folder, group) as shelf:
            if save:
                torch.rand(3, generator=run.generators["dropout"])
                shelf.save(2, run, {})
            else:
                shelf.load(run)
        return torch.rand(3, generator=run.generators["dropout"]).tolist()

    saved = on_ranks(2, lambda rank, group: drawn(rank, group, tmp_path, True))
    assert on_ranks(2, lambda rank, group: drawn(rank, group, tmp_path, False)) == saved
    others = on_ranks(3, lambda rank, group: drawn(rank, group, tmp_path, False))
    assert others == on_ranks(3, lambda rank, group: drawn(rank, group, tmp_path, False))
    assert len({tuple(numbers) for numbers in saved + others}) == 5


def test_an_index_of_other_rows_is_made_anew(tmp_path):
    """Loaded into a head that has trained already, on another number of processes."""

    def save(rank, group):
        run = new_run(40, group)
        train(run, 0, 3, rank)
        with Checkpoints(tmp_path, group) as shelf:
            shelf.save(3, run, {})

    on_ranks(2, save)
    run = new_run(40, seed=8)
    train(run, 0, 5)
    with Checkpoints(tmp_path) as shelf:
        shelf.load(run)
    assert not run.head.selector.index.trained
    train(run, 3, 4)
    assert run.head.selector.index.trained
    run.head.sync()
    assert run.head.selector.index.stale_bits(run.head.weight) == 0
