"""A head whose classes are split is the head of one process: loss and gradients, for all that can be asked of it."""

import math

import pytest
import torch
import torch.utils.checkpoint
from ranks import on_ranks
from sharded import DIM, alone, assert_equal, make_case, make_head, split

from annsoftmax_ref import (
    AllClasses,
    ArcFace,
    CombinedMargin,
    CosFace,
    CrossEntropy,
    DSoftmax,
    DSoftmaxB,
    DSoftmaxK,
    ForestClasses,
    InsightFaceArcFace,
    LSHClasses,
    NearestClasses,
    RandomClasses,
    RowSGD,
    SoftmaxHead,
)
from annsoftmax_ref.every_row import PART

OBJECTIVES = {
    "cross_entropy": CrossEntropy,
    "smoothed": lambda: CrossEntropy(label_smoothing=0.1),
    "cosface": CosFace,
    "arcface": ArcFace,
    "arcface_insightface": InsightFaceArcFace,
    "combined": CombinedMargin,
    "dsoftmax": DSoftmax,
    "dsoftmax_b": DSoftmaxB,
    "dsoftmax_k": DSoftmaxK,
}
BATCHES = {"even": lambda p: [3] * p, "ragged": lambda p: list(range(1, p + 1)), "empty": lambda p: [5] + [0] * (p - 1)}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("num_classes", [1, 3, 9, 10, 1003])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_all_objectives_are_exact_for_any_number_of_classes_and_processes(objective, num_classes, batch):
    """N = 1, 3, 9: processes without classes, and a last one with fewer."""
    for ranks in (1, 2, 3, 4):
        sizes = BATCHES[batch](ranks)
        case = make_case(num_classes, sum(sizes))
        options = {"objective": OBJECTIVES[objective]}
        assert_equal(split(case, sizes, **options), alone(case, **options))


@pytest.mark.parametrize(
    "options",
    [
        {"bias": True, "objective": CrossEntropy},
        {"bias": True, "objective": CrossEntropy, "weighted": True},
        {"bias": True, "objective": lambda: CrossEntropy(None, 0.2)},
    ],
    ids=["bias", "bias and weights", "bias and smoothing"],
)
def test_options_are_exact(options):
    case = make_case(11, 9)
    assert_equal(split(case, [4, 0, 5], **options), alone(case, **options))


def test_weighted_margins_and_what_is_ignored_are_exact():
    case = make_case(11, 9)
    case.y[[0, 4]] = 7
    options = {"objective": ArcFace, "weighted": True, "ignore_index": 7}
    assert_equal(split(case, [4, 0, 5], **options), alone(case, **options))


def test_in_eval_mode_the_loss_is_over_all_classes():
    case = make_case(40, 8)
    sampled = {"objective": CosFace, "selector": lambda: RandomClasses(0.3)}
    assert_equal(split(case, [3, 5], train=False, **sampled), alone(case, train=False, **sampled))


@pytest.mark.parametrize("selector", [RandomClasses, NearestClasses, LSHClasses, ForestClasses])
@pytest.mark.parametrize("groups", [1, 3])
def test_selectors_that_leave_nothing_out_are_exact(selector, groups):
    """Then the active sets are known: all classes, a process's own on each."""
    case = make_case(23, 9)
    options = {"objective": CosFace, "selector": lambda: selector(1.0, groups=groups)}
    for sizes in ([9], [4, 5], [4, 0, 5], [3, 2, 2, 2]):
        assert_equal(split(case, sizes, **options), alone(case, objective=CosFace))


SELECTORS = {
    "random": lambda: RandomClasses(0.3),
    "random, groups": lambda: RandomClasses(0.3, groups=3, grouping="random"),
    "ann": lambda: NearestClasses(0.3),
    "ann, groups": lambda: NearestClasses(0.3, groups=3),
    "ann, tail": lambda: NearestClasses(0.3, tail=0.3),
    "ann, priority": lambda: NearestClasses(0.3, priority=True),
    "ann, flat": lambda: NearestClasses(0.3, flat=1),
    "lsh": lambda: LSHClasses(0.3, tables=3),
    "forest": lambda: ForestClasses(0.3),
}


@pytest.mark.parametrize("selector", SELECTORS)
@pytest.mark.parametrize("num_classes", [100, 13])
def test_every_selector_trains_on_every_number_of_processes(selector, num_classes):
    """And gives all processes one loss. Thirteen classes on five processes: 3, 3, 3, 3, 1; on eight: 2 ... 1, 0."""
    case = make_case(num_classes, 8)
    case.y.clamp_(max=3)  # few, so that every group has a place for all of its labels

    def of_rank(rank, group):
        head = make_head(case, CosFace, SELECTORS[selector], group)
        optimizer = RowSGD(head.parameters(), lr=0.2, momentum=0.9)
        losses = []
        for _ in range(6):
            x = case.x[rank::ranks].clone().requires_grad_()
            loss = head(x, case.y[rank::ranks])
            loss.backward()
            assert torch.isfinite(x.grad).all()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    for ranks in (1, 2, 5, 8):
        losses = on_ranks(ranks, of_rank)
        assert all(one == losses[0] for one in losses)
        assert losses[0][-1] < losses[0][0] - 1


def test_a_sampled_step_counts_every_sample_s_own_class():
    """With one place for each label, sets are labels and what fills up; own logits are those of the whole head."""
    case = make_case(200, 8)

    def of_rank(rank, group):
        head = make_head(case, CosFace, lambda: RandomClasses(0.05), group)
        loss = head(case.x[rank::4], case.y[rank::4])
        loss.backward()
        return loss.item(), head.weight.grad.coalesce().indices().flatten() + head.shards.first

    results = on_ranks(4, of_rank)
    ids = torch.cat([ids for _, ids in results])
    assert set(case.y.tolist()) <= set(ids.tolist())
    assert 10 <= len(ids) <= 10 + 4  # A = 10; a process with more labels than its share takes them all


def test_gradients_are_those_of_finite_differences():
    case = make_case(10, 5)

    def of_rank(rank, group):
        head = make_head(case, ArcFace, group=group, averaged=False)
        x = case.x[[0, 1] if rank == 0 else [2, 3, 4]].clone().requires_grad_()
        y = case.y[[0, 1] if rank == 0 else [2, 3, 4]]
        head(x, y).backward()
        numeric = torch.zeros_like(case.x)
        for i in range(5):  # every process moves the same number
            for j in range(DIM):
                ends = []
                for step in (1e-6, -1e-6):
                    moved = case.x.clone()
                    moved[i, j] += step
                    with torch.no_grad():
                        ends.append(head(moved[[0, 1] if rank == 0 else [2, 3, 4]], y).item())
                numeric[i, j] = (ends[0] - ends[1]) / 2e-6
        return (x.grad - numeric[[0, 1] if rank == 0 else [2, 3, 4]]).abs().max()

    assert max(on_ranks(2, of_rank)) < 1e-7


def test_a_long_weight_is_read_in_parts(monkeypatch):
    case = make_case(1003, 7)
    monkeypatch.setattr("annsoftmax_ref.every_row.PART", 32 * DIM)
    assert PART > 32 * DIM
    assert_equal(split(case, [3, 4], objective=CosFace), alone(case, objective=CosFace))


def test_under_autocast_and_in_bfloat16_it_is_near():
    case = make_case(50, 8)

    def of_rank(rank, group, dtype=torch.float32):
        head = SoftmaxHead(50, DIM, AllClasses(), CosFace(), dtype=dtype, process_group=group)
        with torch.no_grad():
            head.weight.copy_(case.weight[head.shards.first : head.shards.last])
        x = case.x[rank::2].to(torch.bfloat16 if dtype == torch.bfloat16 else torch.float32).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            loss = head(x, case.y[rank::2])
        loss.backward()
        assert x.grad.dtype == x.dtype
        return loss.item()

    exact = alone(case, objective=CosFace).loss
    for dtype in (torch.float32, torch.bfloat16):
        losses = on_ranks(2, lambda rank, group, dtype=dtype: of_rank(rank, group, dtype))
        assert losses[0] == losses[1]
        assert math.isclose(losses[0], exact, rel_tol=0.02)


def test_topk_asks_all_processes():
    case = make_case(23, 9)
    whole = make_head(case, CosFace)
    cosines, classes = whole.topk(case.x, 5)

    def of_rank(rank, group):
        head = make_head(case, CosFace, group=group)
        first = sum([4, 0, 5][:rank])
        return head.topk(case.x[first : first + [4, 0, 5][rank]], 5)

    results = on_ranks(3, of_rank)
    assert torch.equal(torch.cat([found for _, found in results]), classes)
    assert torch.allclose(torch.cat([found for found, _ in results]), cosines)
    with pytest.raises(ValueError, match="^process 0 of 3, batch 1: k is 24; it should be at most"):
        on_ranks(3, lambda rank, group: make_head(case, CosFace, group=group).topk(case.x, 24))


@pytest.mark.parametrize("method", ["logits", "diagnose", "captured_step", "add_classes", "remove_classes"])
def test_what_needs_all_classes_is_refused_in_one_sentence(method):
    case = make_case(10, 4)
    arguments = {"logits": (case.x,), "diagnose": (case.x, case.y), "captured_step": (None,)}
    arguments = (arguments | {"add_classes": (1,), "remove_classes": ([0],)})[method]
    with pytest.raises(ValueError, match=f"^{method} needs all classes in one process; this head's are split over 2"):
        on_ranks(2, lambda rank, group: getattr(make_head(case, CosFace, group=group), method)(*arguments))


def test_a_batch_that_is_passed_again_is_scored_against_the_same_classes():
    """By ``torch.utils.checkpoint``, in the backward pass: the gradient is that of the loss that was given."""
    case = make_case(60, 8)

    def of_rank(rank, group, again):
        head = make_head(case, CosFace, lambda: RandomClasses(0.4), group)
        head.generator.manual_seed(rank)
        x = case.x[rank::2].clone().requires_grad_()
        y = case.y[rank::2]
        loss = torch.utils.checkpoint.checkpoint(head, x, y, use_reentrant=False) if again else head(x, y)
        loss.backward()
        return loss.item(), x.grad

    once, twice = (on_ranks(2, lambda rank, group, again=again: of_rank(rank, group, again)) for again in (False, True))
    for (loss, grad), (other, same) in zip(once, twice, strict=True):
        assert loss == other and torch.equal(grad, same)
