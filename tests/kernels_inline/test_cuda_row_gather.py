"""row_gather.cu, and rows.cu by the gradient of unit rows: every version against plain torch, bit for bit."""

import pytest
import torch
from cuda_runners import RUNNERS, index, poisoned, runner, versions
from kernel_examples import CASES, Rows, draw_rows

from annsoftmax_ref import RowSGD
from kernels_inline import rows_rounded
from kernels_inline.checks import ROW_KINDS

SOURCE = "row_gather.cu"
each_version = pytest.mark.parametrize("version", versions(SOURCE, "gather_rows"))
STORED = [(kind, False) for kind in ROW_KINDS] + [(kind, True) for kind in ROW_KINDS]


@pytest.fixture(params=RUNNERS)
def call(request):
    return runner(request.param, SOURCE)


@pytest.fixture(params=RUNNERS)
def call_step(request):
    return runner(request.param, "rows.cu")


def test_the_index_names_every_version():
    assert index(SOURCE) == ["gather_rows_1", "gather_rows_2", "gather_rows_3"]


def lagging(case, kind, eight, n, d, generator):
    """What the launchers take of rows that lag, and the same as the twins take it; ids of some; the table's owner."""
    rows = Rows(*case, torch.randn(n, d, generator=generator))
    for _ in range(5):
        rows.kernel_step(*draw_rows(n, d, generator))
    rows.weight[0] = 0  # a row at the floor
    return rows, rows.held_as(kind, eight), torch.arange(0, n, 2)


def launched(rows, held, ids):
    return [held[0], ROW_KINDS.index(held[0].dtype), *held[1:], rows.last, *held[0].shape, ids, len(ids)]


def table_of(rows):
    return rows.table, len(rows.table) - 1, rows.numbers()


def bits(x):
    return x.view(torch.uint8) if x.dtype == torch.float8_e4m3fn else x


@each_version
@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("case", [CASES[0], CASES[3], CASES[4], CASES[6]])
@pytest.mark.parametrize("n, d", [(1, 1), (20, 33), (7, 100), (3, 260)])
def test_unit_rows_and_norms_are_the_twins(call, version, half, case, n, d, generator):
    name = "row_sgd_gather" if case[0] is RowSGD else "row_adamw_gather"
    for kind, eight in STORED:
        if eight and case[0] is not RowSGD:
            continue
        rows, held, ids = lagging(case, kind, eight, n, d, generator)
        unit = poisoned(len(ids), d, dtype=torch.bfloat16 if half else torch.float32)
        norms = poisoned(len(ids), dtype=torch.float32)
        before = [x.clone() for x in (*held, rows.last) if x is not None]
        assert call(f"{name}_v", version, *launched(rows, held, ids), *table_of(rows), half, unit, norms) == 0
        twin = getattr(rows_rounded, f"{name}_torch")
        expected = twin(*held, rows.last, ids, rows.table, rows.numbers(), bool(half))
        assert torch.equal(unit, expected[0]) and torch.equal(norms, expected[1]), (kind, eight)
        after = [x for x in (*held, rows.last) if x is not None]
        assert all(torch.equal(bits(a), bits(b)) for a, b in zip(before, after, strict=True))


def test_versions_that_there_are_not(call):
    rows, held, ids = lagging(CASES[3], torch.float32, False, 2, 4, torch.Generator().manual_seed(0))
    for version in (0, 4):
        unit, norms = torch.zeros(1, 4), torch.zeros(1)
        assert call("row_sgd_gather_v", version, *launched(rows, held, ids), *table_of(rows), 0, unit, norms) == 100


@pytest.mark.parametrize("version", versions("rows.cu", "step_rows"))
@pytest.mark.parametrize("half", [0, 1])
@pytest.mark.parametrize("case", [CASES[0], CASES[3], CASES[4], CASES[6]])
@pytest.mark.parametrize("n, d", [(1, 1), (20, 33), (7, 100), (3, 260)])
def test_a_step_by_the_gradient_of_unit_rows_is_the_twins(call_step, version, half, case, n, d, generator):
    name = "row_sgd" if case[0] is RowSGD else "row_adamw"
    for kind, eight in STORED:
        if (eight and case[0] is not RowSGD) or (kind != torch.float32 and not half):
            continue
        rows, held, ids = lagging(case, kind, eight, n, d, generator)
        slope = torch.randn(len(ids), d, generator=generator).to(torch.bfloat16 if half else torch.float32)
        gather = getattr(rows_rounded, f"{name}_gather_torch")
        _, norms = gather(*held, rows.last, ids, rows.table, rows.numbers(), False)
        rows.step_number += 1
        twin = [x if x is None else x.clone() for x in (*held, rows.last)]
        codes = poisoned(len(ids), -(-d // 64), dtype=torch.int64)
        given = *launched(rows, held, ids), slope, half, norms, *table_of(rows), 2**40 + 5, codes
        assert call_step(f"{name}_v", version, *given) == 0
        step = getattr(rows_rounded, f"{name}_torch")
        expected = step(*twin, ids, slope, norms, rows.table, rows.numbers(), 2**40 + 5, True)
        for a, b in zip((*held, rows.last, codes), (*twin, expected), strict=True):
            assert a is b or torch.equal(bits(a), bits(b)), (kind, eight)
