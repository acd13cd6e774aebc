"""row_sgd_gather and row_adamw_gather are catching up and gathering, and rows stay as they are; then a step by the
gradient of those unit rows."""

import pytest
import torch
from kernel_examples import CASES, Rows, draw_rows

from annsoftmax_ref import RowAdamW, RowSGD
from kernels_inline import build, rows_rounded
from kernels_inline.head_ops import gather_normalise, normalise_backward, normalise_backward_
from kernels_inline.row_gather_ops import row_adamw_gather, row_sgd_gather
from kernels_inline.rows_ops import row_adamw_, row_adamw_catch_up_, row_sgd_, row_sgd_catch_up_

OPS = {
    RowSGD: (row_sgd_gather, row_sgd_catch_up_, row_sgd_, rows_rounded.row_sgd_gather_torch),
    RowAdamW: (row_adamw_gather, row_adamw_catch_up_, row_adamw_, rows_rounded.row_adamw_gather_torch),
}
KINDS = [(torch.float32, False), (torch.bfloat16, False), (torch.float8_e4m3fn, False), (torch.float32, True)]
variants = pytest.mark.parametrize("flags", build.VARIANTS.values(), ids=build.VARIANTS)


def lagging(case, kind, eight, generator, n=30, d=70):
    """Weight, buffers and last of rows that lag by different numbers of steps; ids of some; table and numbers."""
    rows = Rows(*case, torch.randn(n, d, generator=generator))
    for _ in range(6):
        rows.kernel_step(*draw_rows(n, d, generator))
    rows.weight[3] = 0  # a row at the floor
    return rows, rows.held_as(kind, eight), rows.last, torch.arange(0, n, 3)


@variants
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_it_is_catching_up_and_gathering_in_one_and_changes_nothing(flags, case, half, generator):
    for kind, eight in KINDS:
        if eight and case[0] is not RowSGD:
            continue
        gather, catch_up, _, twin = OPS[case[0]]
        rows, held, last, ids = lagging(case, kind, eight, generator)
        before = [x.clone() for x in (*held, last) if x is not None]
        with build.using(flags):
            unit, norms = gather(*held, last, ids, rows.table, rows.numbers(), half)
        assert all(torch.equal(a.float(), b.float()) for a, b in zip(
            before, (x for x in (*held, last) if x is not None), strict=True))  # fmt: skip
        expected, lengths = twin(*held, last, ids, rows.table, rows.numbers(), half)
        assert unit.dtype == (torch.bfloat16 if half else torch.float32)
        torch.testing.assert_close(norms, lengths, rtol=1e-5, atol=1e-20)
        torch.testing.assert_close(unit, expected, rtol=2**-7 if half else 1e-4, atol=1e-5)
        if kind == torch.float32 and not eight:
            with build.using(flags):
                catch_up(*held, last, ids, rows.table, rows.numbers(), 0)
                plain = gather_normalise(held[0], ids, half)
            torch.testing.assert_close((unit, norms), plain, rtol=2**-7 if half else 1e-6, atol=1e-6)


def test_without_momentum_only_the_weight_is_read(generator):
    rows, held, last, ids = lagging((RowSGD, dict(lr=0.1, weight_decay=0.1)), torch.float32, False, generator)
    unit, norms = row_sgd_gather(held[0], None, None, last, ids, rows.table, rows.numbers(), False)
    expected = row_sgd_gather(*held, last, ids, rows.table, rows.numbers(), False)
    torch.testing.assert_close((unit, norms), expected)


@variants
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_step_by_the_gradient_of_unit_rows_is_two_in_one(flags, case, half, generator):
    """In float32, that of normalise_backward and then the step, to the last bit on one instruction set."""
    gather, catch_up, step, _ = OPS[case[0]]
    rows, held, last, ids = lagging(case, torch.float32, False, generator)
    slope = torch.randn(len(ids), 70, generator=generator)
    slope = slope.bfloat16() if half else slope
    ours, theirs = ([x if x is None else x.clone() for x in (*held, last)] for _ in range(2))
    with build.using(flags):
        _, norms = gather(*ours, ids, rows.table, rows.numbers(), half)
        catch_up(*theirs, ids, rows.table, rows.numbers(), 0)
        grad = slope.clone()
        if half:
            grad = normalise_backward(slope, theirs[0], ids, norms)
        else:
            normalise_backward_(grad, theirs[0], ids, norms)
        rows.step_number += 1
        codes = step(*ours, ids, slope, norms, rows.table, rows.numbers(), 0, True)
        table = rows.table.clone()
        again = step(*theirs, ids, grad, None, table, rows.numbers(), 0, True)
    for a, b in zip((*ours, codes), (*theirs, again), strict=True):
        assert a is b or torch.equal(a, b)


@pytest.mark.parametrize("case", [CASES[3], CASES[4]])
def test_the_gradient_of_rows_is_autograds(case, generator):
    rows = Rows(*case, torch.randn(12, 33, generator=generator))
    exact = Rows(*case, rows.weight, torch.float64)
    step = OPS[case[0]][2]
    for _ in range(5):
        ids, slope = draw_rows(12, 33, generator)
        exact.catch_up(ids)
        grad, norms = exact.of_units(ids, slope)
        rows.step_number += 1
        state = rows.weight, *rows.buffers, *rows.scales, rows.last, ids
        step(*state, slope, norms.float(), rows.table, rows.numbers(), 0, False)
        rows.advance()
        exact.step(ids, grad)
    torch.testing.assert_close(rows.weight.double(), exact.weight, rtol=1e-4, atol=1e-5)


def test_opcheck_and_bad_arguments(generator):
    rows, held, last, ids = lagging(CASES[3], torch.float32, False, generator)
    torch.library.opcheck(row_sgd_gather.registered, (*held, last, ids, rows.table, rows.numbers(), True))
    with pytest.raises(ValueError, match="ids holds a value"):
        row_sgd_gather(*held, last, ids + 29, rows.table, rows.numbers(), False)
    with pytest.raises(ValueError, match="last holds a step after this one"):
        row_sgd_gather(*held, last + 99, ids, rows.table, rows.numbers(), False)
    slope, norms = torch.zeros(len(ids), 70), torch.ones(len(ids))
    with pytest.raises(ValueError, match="norms is"):
        row_sgd_(*held, last, ids, slope, norms[1:], rows.table, rows.numbers(), 0, False)
    with pytest.raises(ValueError, match="grad is torch.bfloat16"):
        row_sgd_(*held, last, ids, slope.bfloat16(), None, rows.table, rows.numbers(), 0, False)
    rows, held, last, ids = lagging(CASES[5], torch.float32, False, generator)
    torch.library.opcheck(row_adamw_gather.registered, (*held, last, ids, rows.table, rows.numbers(), False))
