"""rows.cu: every version against float64, plain torch in float32, and the twin with the same rounding bit for bit."""

import pytest
import torch
from cuda_runners import RUNNERS, index, poisoned, runner, versions
from kernel_examples import ADAMW, CASES, SGD, WINDOW, Rows, assert_rows_not_worse, draw_rows, step_both

from annsoftmax_ref import RowSGD
from kernels_inline import rows_rounded
from kernels_inline.bits import pack_bits
from kernels_inline.checks import ROW_KINDS, gradient_kind

SOURCE = "rows.cu"
each_version = pytest.mark.parametrize("version", versions(SOURCE, "step_rows"))
SIZES = [(1, 1), (9, 31), (40, 33), (5, 100), (3, 128), (2, 260), (300, 4)]


@pytest.fixture(params=RUNNERS)
def call(request):
    return runner(request.param, SOURCE)


class CudaRows(Rows):
    """Rows whose kernel is a version of a launcher; kind: of the weight, rounded at random by this seed; eight:
    momentum in int8."""

    def __init__(self, case, weight, call, version, seed=None, kind=torch.bfloat16, eight=False):
        super().__init__(*case, weight)
        self.call, self.version, self.seed = call, version, seed
        self.name = "row_sgd" if case[0] is RowSGD else "row_adamw"
        if seed is not None:
            self.weight = self.weight.to(kind)
            self.buffers = [x.to(torch.int8 if eight else gradient_kind(self.weight)) for x in self.buffers]
        if eight:
            self.scales = [torch.zeros(len(weight))]

    def launch(self, name, ids, *arguments, codes=()):
        held = self.weight, ROW_KINDS.index(self.weight.dtype), *self.buffers, *self.scales
        rows = *held, self.last, *self.weight.shape, ids, len(ids)
        steps = self.table, len(self.table) - 1, self.numbers(), self.seed or 0
        assert self.call(f"{name}_v", self.version, *rows, *arguments, *steps, *codes) == 0

    def kernel_step(self, ids, grad, with_codes=True):
        self.step_number += 1
        codes = poisoned(len(ids), (grad.shape[1] + 63) // 64, dtype=torch.int64) if with_codes else None
        grad = grad.to(gradient_kind(self.weight))
        self.launch(self.name, ids, grad, int(grad.dtype == torch.bfloat16), None, codes=[codes])
        self.advance()
        return codes

    def kernel_catch_up(self, ids):
        self.launch(f"{self.name}_catch_up", ids)

    def twin_step(self, ids, grad):
        """The same by kernels_inline.rows_rounded."""
        self.step_number += 1
        step = getattr(rows_rounded, f"{self.name}_torch")
        grad = grad.to(gradient_kind(self.weight))
        codes = step(*self.held(), ids, grad, None, self.table, self.numbers(), self.seed, True)
        self.advance()
        return codes

    def twin_catch_up(self, ids):
        catch_up = getattr(rows_rounded, f"{self.name}_catch_up_torch")
        catch_up(*self.held(), ids, self.table, self.numbers(), self.seed)

    def held(self):
        return self.weight, *self.buffers, *self.scales, self.last

    def bits(self):
        """All that is held, in whole numbers where torch compares none of its kind."""
        held = (x for x in self.held() if x is not None)
        return [x.view(torch.uint8) if x.dtype == torch.float8_e4m3fn else x for x in held]


def test_the_index_names_every_version():
    assert index(SOURCE) == ["step_rows_1", "step_rows_2", "step_rows_3"]


def test_versions_that_there_are_not(call):
    for version in (0, 4):
        rows = CudaRows(CASES[0], torch.zeros(1, 1), call, version)
        with pytest.raises(AssertionError):
            rows.kernel_step(torch.tensor([0]), torch.zeros(1, 1))


# ------------------------------------------------------------------------------------------------------------- float32


@each_version
@pytest.mark.parametrize("case", CASES)
def test_steps_and_catch_up_are_not_worse_than_torch_in_float32(call, version, case, generator):
    n, d = 30, 68
    weight = torch.randn(n, d, generator=generator)
    ours, plain = CudaRows(case, weight.clone(), call, version), Rows(*case, weight.clone())
    exact = Rows(*case, weight, torch.float64)
    for _ in range(20):
        ids, grad = draw_rows(n, d, generator)
        codes = ours.kernel_step(ids, grad)
        plain.step(ids, grad)
        exact.step(ids, grad)
        assert torch.equal(codes, pack_bits(ours.weight[ids] > 0))
    assert_rows_not_worse(ours, plain, exact)
    for rows in (plain, exact):
        rows.catch_up(torch.arange(n))
    ours.kernel_catch_up(torch.arange(n))
    assert_rows_not_worse(ours, plain, exact)


@each_version
@pytest.mark.parametrize("n, d", SIZES)
def test_any_size(call, version, n, d, generator):
    for case in (CASES[3], CASES[5]):
        weight = torch.randn(n, d, generator=generator)
        ours, exact = CudaRows(case, weight.clone(), call, version), Rows(*case, weight, torch.float64)
        edges, everything = torch.tensor(sorted({0, n - 1})), torch.arange(n)
        for ids in (edges, everything, everything[:0], edges, edges[-1:]):
            step_both(ours, exact, ids, torch.randn(len(ids), d, generator=generator))
        torch.testing.assert_close(ours.weight.double(), exact.weight, rtol=1e-4, atol=1e-4)
        assert torch.equal(ours.last, exact.last)


@each_version
@pytest.mark.parametrize("case", [SGD[3], *ADAMW])
def test_every_lag_of_the_table(call, version, case, generator):
    """Row r lags by r steps, from none to the most that the table has."""
    n, d = WINDOW + 1, 12
    case = (RowSGD, case) if "momentum" in case else next(c for c in CASES if c[1] is case)
    weight = torch.randn(n, d, generator=generator)
    ours, exact = CudaRows(case, weight.clone(), call, version), Rows(*case, weight, torch.float64)
    grad = torch.randn(n, d, generator=generator)
    for rows in (ours, exact):  # all have a gradient once; then row r has its last one r steps before the end
        (rows.kernel_step if rows is ours else rows.step)(torch.arange(n), grad)
        for _ in range(WINDOW):
            rows.step_number += 1
            rows.advance()
        rows.last[:] = rows.step_number - torch.arange(n)
    before = ours.weight[0].clone()
    ours.kernel_catch_up(torch.arange(n))
    exact.catch_up(torch.arange(n))
    assert torch.equal(ours.weight[0], before) and (ours.last == ours.step_number).all()
    for a, b in zip((ours.weight, *ours.buffers), (exact.weight, *exact.buffers), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", [CASES[3], CASES[5]])
def test_a_step_is_the_same_to_the_last_bit_in_every_version_and_in_plain_torch(call, case, generator):
    n, d = 20, 132
    weight, ids = torch.randn(n, d, generator=generator), torch.arange(1, n, 2)
    grads = [torch.randn(len(ids), d, generator=generator) for _ in range(3)]
    results = []
    for version in versions(SOURCE, "step_rows"):
        rows = CudaRows(case, weight.clone(), call, version)
        for grad in grads:
            rows.kernel_step(ids, grad, with_codes=False)
        results.append((rows.weight, *rows.buffers))
    w, *buffers = (x[ids] for x in (weight, *(torch.zeros_like(weight) for _ in rows.buffers)))
    for step, grad in enumerate(grads, start=1):
        numbers = torch.tensor(rows.twin.numbers(rows.group, step), dtype=torch.float64)
        move = rows_rounded.sgd_move if rows.name == "row_sgd" else rows_rounded.adamw_move
        w, *buffers = move(w, *buffers, grad, numbers)
    for result in results:
        for a, b in zip(result, (w, *buffers), strict=True):
            assert torch.equal(a[ids], b)


@each_version
def test_zero_and_nan_have_no_sign_bit(call, version):
    numbers = torch.tensor([[0.0, -0.0, float("nan"), 1.0, -1.0, 2.0, 1e-40, -1e-40] * 9])
    rows = CudaRows((RowSGD, dict(lr=1.0)), numbers, call, version)
    codes = rows.kernel_step(torch.tensor([0]), torch.zeros(1, 72))
    assert torch.equal(codes, pack_bits(numbers > 0)) and codes[0, 1] == 0b1101000


@each_version
@pytest.mark.parametrize("seed", [None, 7])
def test_without_momentum_no_buffer_is_needed(call, version, seed, generator):
    weight = torch.randn(20, 36, generator=generator)
    ours, buffered = (CudaRows(CASES[0], weight.clone(), call, version, seed=seed) for _ in range(2))
    ours.buffers = [None]
    for _ in range(3):
        ids, grad = draw_rows(20, 36, generator)
        assert torch.equal(ours.kernel_step(ids, grad), buffered.kernel_step(ids, grad))
    for rows in (ours, buffered):
        rows.kernel_catch_up(torch.arange(20))
    assert torch.equal(ours.weight, buffered.weight) and torch.equal(ours.last, buffered.last)


# ---------------------------------------------------------------------------------------------------------------- bf16


STORED = [
    (torch.bfloat16, False),
    (torch.float8_e4m3fn, False),
    (torch.float32, True),
    (torch.bfloat16, True),
    (torch.float8_e4m3fn, True),
]


@each_version
@pytest.mark.parametrize("case", [CASES[0], CASES[3], CASES[4], CASES[6]])
@pytest.mark.parametrize("n, d", [(1, 1), (20, 33), (7, 100), (2, 260)])
def test_what_is_rounded_equals_its_twin_bit_for_bit(call, version, case, n, d, generator):
    weight = torch.randn(n, d, generator=generator) / d**0.5
    for kind, eight in STORED:
        if eight and case[0] is not RowSGD:
            continue
        ours, twin = (CudaRows(case, weight.clone(), call, version, 2**40 + 5, kind, eight) for _ in range(2))
        for _ in range(4):
            ids, grad = draw_rows(n, d, generator)
            assert torch.equal(ours.kernel_step(ids, grad), twin.twin_step(ids, grad))
        ours.kernel_catch_up(torch.arange(n))
        twin.twin_catch_up(torch.arange(n))
        for a, b in zip(ours.bits(), twin.bits(), strict=True):
            assert torch.equal(a, b), kind


@each_version
@pytest.mark.parametrize("case", [CASES[0], CASES[4]])
def test_bf16_keeps_nan_and_infinity(call, version, case):
    """Random bits added to a NaN whose bits are all 1 would make it a zero."""
    grad = torch.tensor([[0x7FFFFFFF, -1, 0x7F800000, -0x800000]], dtype=torch.int32).view(torch.float32).repeat(1, 9)
    rows = CudaRows(case, torch.zeros(1, 36), call, version, seed=1)
    rows.kernel_step(torch.tensor([0]), grad)
    for array in rows.buffers if rows.name == "row_adamw" else (rows.weight, *rows.buffers):
        four = array.view(9, 4)
        assert four[:, :2].isnan().all() and four[:, 2:].isinf().all()


@each_version
def test_8_bits_keep_nan_and_stop_at_the_largest(call, version):
    """e4m3 has no infinity; of a momentum in int8 a row with a NaN is one throughout."""
    grad = torch.tensor([[torch.nan, torch.inf, -torch.inf, 1.0]]).repeat(1, 9)
    rows = CudaRows((RowSGD, dict(lr=1.0)), torch.zeros(1, 36), call, version, 1, torch.float8_e4m3fn)
    rows.kernel_step(torch.tensor([0]), grad)
    four = rows.weight.float().view(9, 4)
    assert four[:, 0].isnan().all() and four[0, 1:].tolist() == [-448, 448, -1]
    rows = CudaRows(CASES[3], torch.zeros(1, 36), call, version, 1, torch.bfloat16, eight=True)
    rows.kernel_step(torch.tensor([0]), grad)
    assert rows.scales[0].isnan().all()
