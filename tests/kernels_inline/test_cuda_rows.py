"""rows.cu: every version against float64, plain torch in float32, and the twin with the same rounding bit for bit."""

import numpy as np
import pytest
import torch
from cuda_runners import RUNNERS, index, poisoned, runner, versions
from kernel_examples import ADAMW, CASES, SGD, WINDOW, Rows, assert_rows_not_worse, draw_rows, step_both

from annsoftmax_ref import RowSGD
from kernels_inline import rows_bf16
from kernels_inline.bits import pack_bits

SOURCE = "rows.cu"
each_version = pytest.mark.parametrize("version", versions(SOURCE, "step_rows"))
SIZES = [(1, 1), (9, 31), (40, 33), (5, 100), (3, 128), (2, 260), (300, 4)]


@pytest.fixture(params=RUNNERS)
def call(request):
    return runner(request.param, SOURCE)


class CudaRows(Rows):
    """Rows whose kernel is a version of a launcher; bf16: with stochastic rounding by this seed."""

    def __init__(self, case, weight, call, version, seed=None):
        super().__init__(*case, weight)
        self.call, self.version, self.seed = call, version, seed
        self.name = "row_sgd" if case[0] is RowSGD else "row_adamw"
        if seed is not None:
            self.weight, *self.buffers = (x.bfloat16() for x in (self.weight, *self.buffers))

    def launch(self, name, ids, *arguments):
        suffix, bf16 = ("", ()) if self.seed is None else ("_bf16", (self.seed,))
        if len(arguments) > 4:  # a step: its codes come after the seed
            arguments = (*arguments[:-1], *bf16, arguments[-1])
        else:
            arguments = (*arguments, *bf16)
        rows = self.weight, *self.buffers, self.last, *self.weight.shape, ids, len(ids)
        assert self.call(f"{name}{suffix}_v", self.version, *rows, *arguments) == 0

    def hyper(self):
        g = self.group
        if self.name == "row_sgd":
            return float(g["lr"]), float(g["momentum"]), float(g["weight_decay"]), g["nesterov"]
        return float(g["lr"]), *map(float, g["betas"]), float(g["eps"]), float(g["weight_decay"])

    def kernel_step(self, ids, grad, with_codes=True):
        self.step_number += 1
        codes = poisoned(len(ids), (grad.shape[1] + 63) // 64, dtype=torch.int64) if with_codes else None
        grad = grad.to(self.weight.dtype)
        self.launch(self.name, ids, grad, self.table, len(self.table) - 1, self.step_number, *self.hyper(), codes)
        self.advance()
        return codes

    def kernel_catch_up(self, ids):
        eps = () if self.name == "row_sgd" else (float(self.group["eps"]),)
        self.launch(f"{self.name}_catch_up", ids, self.table, len(self.table) - 1, self.step_number, *eps)

    def twin_step(self, ids, grad):
        """The same by kernels_inline.rows_bf16."""
        self.step_number += 1
        state = self.weight, *self.buffers, self.last, ids, grad.bfloat16(), self.table, self.step_number
        step = rows_bf16.row_sgd_bf16_ if self.name == "row_sgd" else rows_bf16.row_adamw_bf16_
        codes = step(*state, *self.hyper(), self.seed, True)
        self.advance()
        return codes

    def twin_catch_up(self, ids):
        state = self.weight, *self.buffers, self.last, ids, self.table, self.step_number
        if self.name == "row_sgd":
            rows_bf16.row_sgd_catch_up_bf16_(*state, self.seed)
        else:
            rows_bf16.row_adamw_catch_up_bf16_(*state, self.group["eps"], self.seed)


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
        if rows.name == "row_sgd":
            w, *buffers = rows_bf16.sgd_move(w, *buffers, grad, *rows.hyper())
        else:
            w, *buffers = rows_bf16.adamw_move(w, *buffers, grad, step, *rows.hyper())
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


@each_version
@pytest.mark.parametrize("case", [CASES[0], CASES[3], CASES[4], CASES[6]])
@pytest.mark.parametrize("n, d", [(1, 1), (20, 33), (7, 100), (2, 260)])
def test_bf16_equals_its_twin_bit_for_bit(call, version, case, n, d, generator):
    weight = torch.randn(n, d, generator=generator)
    ours, twin = (CudaRows(case, weight, call, version, seed=2**40 + 5) for _ in range(2))
    for _ in range(4):
        ids, grad = draw_rows(n, d, generator)
        assert torch.equal(ours.kernel_step(ids, grad), twin.twin_step(ids, grad))
    ours.kernel_catch_up(torch.arange(n))
    twin.twin_catch_up(torch.arange(n))
    for a, b in zip((ours.weight, *ours.buffers, ours.last), (twin.weight, *twin.buffers, twin.last), strict=True):
        assert torch.equal(a, b)


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


def test_random_bits_are_those_of_splitmix64():
    found = rows_bf16.random_bits(torch.tensor([1234567, 0]), 3).numpy().view(np.uint64)
    assert found[0].tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert found[1].tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_seeds_steps_and_rows_have_bits_of_their_own():
    states = [rows_bf16.row_states(seed, step, torch.arange(50)) for seed in (0, 1, -1) for step in range(1, 30)]
    assert len(torch.cat(states).unique()) == 3 * 29 * 50


@pytest.mark.parametrize("field", [0, 1, 2])
def test_rounding_at_random_is_right_on_average(field, generator):
    """Each of 400 numbers is rounded 2000 times: errors of the means as large as chance makes them, and no larger."""
    n, times = 400, 2000
    x = torch.randn(n, 1, generator=generator) * 10.0 ** torch.randint(-30, 30, (n, 1), generator=generator)
    low = (x.view(torch.int32) & -0x10000).view(torch.float32)
    high = ((x.view(torch.int32) & -0x10000) + 0x10000).view(torch.float32)
    bits = rows_bf16.random_bits(rows_bf16.row_states(0, 1, torch.arange(n)), times)
    rounded = rows_bf16.round_at_random(x.expand(n, times), bits, field).float()
    assert ((rounded == low) | (rounded == high)).all()
    part = (x.view(torch.int32) & 0xFFFF).double() / 65536
    share = (rounded == high).double().mean(1, keepdim=True)
    errors = (share - part) / (part * (1 - part) / times).sqrt()  # in standard errors
    assert abs(float(errors.mean())) <= 2 / n**0.5 and abs(float(errors.square().mean()) - 1) <= 2 * (2 / n) ** 0.5


def test_rounding_at_random_keeps_what_bf16_can_hold():
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(97, generator=generator), torch.tensor([0.0, -0.0, float("inf"), -float("inf")])])
    x, ones = x.bfloat16().float(), torch.full((101,), -1)
    assert torch.equal(rows_bf16.round_at_random(x, ones, 0).float(), x)
    nan = torch.tensor([0x7F800001, 0x7FFFFFFF, -0x7FFFFF], dtype=torch.int32).view(torch.float32)
    assert rows_bf16.round_at_random(nan, ones[:3], 0).isnan().all()


def test_many_tiny_updates_are_not_lost():
    """Every step moves the weight by a 200th of the spacing; to the nearest, it would never leave its place."""
    n, d, steps = 40, 64, 200
    spacing, ids = 2.0**-7, torch.arange(n)  # of bf16 numbers from 1 to 2
    weight, momentum = torch.ones(n, d, dtype=torch.bfloat16), torch.zeros(n, d, dtype=torch.bfloat16)
    last, table = torch.zeros(n, dtype=torch.int64), torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    grad = torch.full((n, d), -1.0)
    lr = spacing / 200
    assert (weight.float() - lr * grad).bfloat16().eq(1).all()
    for step in range(1, steps + 1):
        rows_bf16.row_sgd_bf16_(weight, momentum, last, ids, grad, table, step, lr, 0.0, 0.0, False, 11, False)
    moved = weight.double() - 1
    standard_error = float(moved.std()) / (n * d) ** 0.5
    assert abs(float(moved.mean()) - steps * lr) <= 2 * standard_error and standard_error < 0.05 * steps * lr
