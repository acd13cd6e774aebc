"""What one process cannot take, all refuse in the same step; what one says, all know."""

import re

import pytest
import torch
from ranks import on_ranks
from sharded import make_case, make_head

from annsoftmax_ref import CosFace, RowSGD, SoftmaxHead


def planted(case, rank: int, fault) -> list[str]:
    """What each of three processes raises in its second batch, if ``fault(x, y)`` spoils it on one of them."""

    def of_rank(me, group):
        head = make_head(case, CosFace, group=group)
        head(case.x[me::3], case.y[me::3])
        x, y = case.x[me::3].clone(), case.y[me::3].clone()
        x, y = fault(x, y) if me == rank else (x, y)
        before = head.weight.detach().clone(), head.generator.get_state(), head.common.get_state()
        with pytest.raises((ValueError, TypeError)) as caught:
            head(x, y)
        assert all(
            torch.equal(a, b)
            for a, b in zip(
                before, (head.weight.detach(), head.generator.get_state(), head.common.get_state()), strict=True
            )
        )
        head(case.x[me::3], case.y[me::3])  # and all go on together
        return f"{type(caught.value).__name__}: {caught.value}"

    return on_ranks(3, of_rank)


def nan(x, y):
    x[0, 0] = torch.nan
    return x, y


def bad_label(x, y):
    y[0] = 12
    return x, y


@pytest.mark.parametrize("rank", range(3))
@pytest.mark.parametrize(
    "fault, sentence",
    [
        (
            nan,
            "ValueError: process {} of 3, batch 2: embeddings holds NaN or infinite values; all of them",
        ),
        (
            bad_label,
            "ValueError: process {} of 3, batch 2: labels holds 12; labels should be from 0 to 9 (num_classes - 1)",
        ),
        (
            lambda x, y: (x[:, :5], y),
            "ValueError: process {} of 3, batch 2: embeddings has shape [3, 5]; it should be [B, 6]",
        ),
        (lambda x, y: (x, y.int()), "TypeError: process {} of 3, batch 2: labels is of type torch.int32; it should be"),
        (lambda x, y: (x * 0, y), "ValueError: process {} of 3, batch 2: embeddings has a row of zeros (row 0)"),
        (lambda x, y: (None, y), "TypeError: process {} of 3, batch 2: embeddings is of type NoneType"),
    ],
)
def test_a_bad_batch_on_one_process_raises_on_all(rank, fault, sentence):
    said = planted(make_case(10, 9), rank, fault)
    assert len(set(said)) == 1
    assert said[0].startswith(sentence.format(rank))


def test_an_empty_batch_on_all_processes_is_refused_and_on_some_is_not():
    case = make_case(10, 3)
    nothing = case.x[:0], case.y[:0]

    def of_rank(rank, group):
        head = make_head(case, CosFace, group=group)
        loss = head(*(nothing if rank else (case.x, case.y)))
        with pytest.raises(ValueError, match="^embeddings is an empty batch on every process"):
            head(*nothing)
        return loss.item()

    assert len(set(on_ranks(3, of_rank))) == 1


def test_where_everything_is_ignored_the_loss_is_0():
    case = make_case(10, 4)
    case.y.fill_(3)

    def of_rank(rank, group):
        head = make_head(case, CosFace, group=group, ignore_index=3)
        x = case.x.clone().requires_grad_()
        loss = head(x, case.y)
        loss.backward()
        return loss.item(), x.grad.abs().max().item()

    assert on_ranks(3, of_rank) == [(0.0, 0.0)] * 3


def test_an_overflow_on_one_process_gives_nan_on_all():
    """So that a GradScaler that knows of all processes skips the step on all."""
    case = make_case(10, 6)

    def of_rank(rank, group):
        head = SoftmaxHead(10, 6, objective=CosFace(), process_group=group)
        x = case.x[rank::3].half()
        if rank == 1:
            x[0, 0] = torch.inf
        loss = head(x.requires_grad_(), case.y[rank::3])
        loss.backward()
        return loss.isnan().item(), x.grad.isnan().any().item()

    assert on_ranks(3, of_rank) == [(True, True)] * 3


def test_who_wants_to_stop_is_heard_in_the_same_step():
    case = make_case(10, 9)

    def of_rank(rank, group):
        head = make_head(case, CosFace, group=group)
        heard = []
        for step in range(4):
            head.agreement.wants_stop = rank == 1 and step == 2
            head(case.x[rank::3], case.y[rank::3])
            heard.append(head.agreement.stopping)
        return heard

    assert on_ranks(3, of_rank) == [[False, False, True, True]] * 3


def test_processes_that_call_the_head_in_different_ways_are_told():
    case = make_case(10, 9)

    def in_eval(rank, group):
        head = make_head(case, CosFace, group=group).train(rank != 2)
        head(case.x[rank::3], case.y[rank::3])

    def behind(rank, group):
        head = make_head(case, CosFace, group=group)
        head.agreement.steps += rank == 1
        head(case.x[rank::3], case.y[rank::3])

    with pytest.raises(
        ValueError, match=re.escape("process 2 of 3 is at mode (training, gradients, kind of embeddings)")
    ):
        on_ranks(3, in_eval)
    with pytest.raises(ValueError, match="^process 1 of 3 is at step 2 and process 0 at 1; all processes should call"):
        on_ranks(3, behind)


def test_processes_whose_embeddings_want_no_gradient_take_part_in_the_others_sum():
    case = make_case(10, 9)

    def of_rank(rank, group):
        head = make_head(case, CosFace, group=group)
        optimizer = RowSGD(head.parameters(), lr=0.1)
        x = case.x[rank::3].clone().requires_grad_(rank == 1)
        head(x, case.y[rank::3]).backward()
        optimizer.step()
        return x.grad is not None

    assert on_ranks(3, of_rank) == [False, True, False]
