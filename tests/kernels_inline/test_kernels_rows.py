"""row_sgd_ and row_adamw_ against annsoftmax_ref.optim in float64, beside the same plain torch in float32."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_examples import ADAMW, CASES, SGD, Rows, assert_rows_not_worse, draw_rows, step_both

from annsoftmax_ref import RowAdamW, RowSGD, backend
from kernels_inline import build, rows_rounded
from kernels_inline.bits import pack_bits
from kernels_inline.checks import gradient_kind
from kernels_inline.rows_ops import row_adamw_, row_adamw_catch_up_, row_sgd_, row_sgd_catch_up_

variants = pytest.mark.parametrize("flags", build.VARIANTS.values(), ids=build.VARIANTS)


@variants
@pytest.mark.parametrize("optimizer, options", CASES)
def test_steps_and_catch_up_are_not_worse_than_torch_in_float32(flags, optimizer, options, generator):
    n, d = 30, 70
    weight = torch.randn(n, d, generator=generator)
    ours, plain = (Rows(optimizer, options, weight.clone()) for _ in range(2))
    exact = Rows(optimizer, options, weight, torch.float64)
    for _ in range(25):
        ids, grad = draw_rows(n, d, generator)
        with build.using(flags):
            codes = ours.kernel_step(ids, grad)
        plain.step(ids, grad)
        exact.step(ids, grad)
        assert torch.equal(codes, pack_bits(ours.weight[ids] > 0))
    assert_rows_not_worse(ours, plain, exact)
    with build.using(flags):
        ours.kernel_catch_up(torch.arange(n))
    plain.catch_up(torch.arange(n))
    exact.catch_up(torch.arange(n))
    assert_rows_not_worse(ours, plain, exact)


@pytest.mark.parametrize(
    "optimizer, dense, options", [(RowSGD, torch.optim.SGD, SGD[3]), (RowAdamW, torch.optim.AdamW, ADAMW[0])]
)
def test_the_dense_optimizer_ends_at_the_same_place(optimizer, dense, options, generator):
    n, d = 20, 9
    weight = torch.randn(n, d, generator=generator)
    rows = Rows(optimizer, options, weight.clone())
    parameter = torch.nn.Parameter(weight.double())
    everything = dense([parameter], **options)
    for _ in range(35):
        ids, grad = draw_rows(n, d, generator)
        rows.kernel_step(ids, grad, with_codes=False)
        parameter.grad = torch.zeros_like(parameter).index_copy(0, ids, grad.double())
        everything.step()
    rows.kernel_catch_up(torch.arange(n))
    torch.testing.assert_close(rows.weight.double(), parameter.detach(), rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 200), st.sampled_from(CASES), st.integers(0, 99))
def test_any_size(n, d, case, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, d, generator=generator)
    ours, exact = Rows(*case, weight.clone()), Rows(*case, weight, torch.float64)
    for _ in range(4):
        step_both(ours, exact, *draw_rows(n, d, generator))
    torch.testing.assert_close(ours.weight.double(), exact.weight, rtol=1e-4, atol=1e-4)


def test_a_catch_up_leaves_rows_alone_that_do_not_lag(generator):
    rows = Rows(RowSGD, SGD[2], torch.randn(6, 5, generator=generator))
    rows.kernel_step(torch.arange(6), torch.randn(6, 5, generator=generator))
    rows.kernel_step(torch.tensor([1, 4]), torch.randn(2, 5, generator=generator))
    before = rows.weight.clone()
    rows.kernel_catch_up(torch.tensor([0, 1, 4]))
    assert rows.last.tolist() == [2, 2, 1, 1, 2, 1]
    assert torch.equal(rows.weight[1:], before[1:]) and not torch.equal(rows.weight[0], before[0])


def test_adamw_rows_without_any_gradient_only_decay():
    rows = Rows(RowAdamW, dict(lr=0.1, eps=0.0, weight_decay=0.5), torch.ones(2, 17))
    rows.kernel_step(torch.tensor([0]), torch.ones(1, 17))
    rows.kernel_catch_up(torch.tensor([1]))
    torch.testing.assert_close(rows.weight[1], torch.full((17,), 0.95))


def test_zero_and_nan_have_no_sign_bit():
    rows = Rows(RowSGD, dict(lr=1.0), torch.tensor([[0.0, -0.0, float("nan"), 1.0, -1.0, 2.0]]))
    assert rows.kernel_step(torch.tensor([0]), torch.zeros(1, 6)).tolist() == [[0b101000]]


def test_threads_do_not_change_a_bit(generator):
    weight, (ids, grad) = torch.randn(100, 33, generator=generator), draw_rows(100, 33, generator)
    results = []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            rows = Rows(RowAdamW, ADAMW[0], weight.clone())
            rows.kernel_step(torch.arange(0, 100, 2), torch.ones(50, 33))
            rows.kernel_step(ids, grad)
        finally:
            torch.set_num_threads(before)
        results.append(rows.weight)
    assert torch.equal(*results)


# ------------------------------------------------------------------------------------------------------------ form


def arguments(n=8, d=5, ids=(1, 4)):
    w, m, v = torch.randn(n, d), torch.zeros(n, d), torch.zeros(n, d)
    last, ids = torch.zeros(n, dtype=torch.int64), torch.tensor(ids)
    return w, m, v, last, ids, torch.randn(len(ids), d)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_opcheck():
    w, m, v, last, ids, grad = arguments()
    four, five = torch.ones(9, 4, dtype=torch.float64), torch.ones(9, 5, dtype=torch.float64)
    sgd, adamw = numbers(3, 0.1, 0.9, 0, 0), numbers(3, 1e-8, 1, 0.1, 2, 0.9, 0.1, 0.99, 0.01)
    for with_codes in (True, False):
        torch.library.opcheck(row_sgd_.registered, (w, m, None, last, ids, grad, None, four, sgd, 0, with_codes))
        torch.library.opcheck(row_adamw_.registered, (w, m, v, last, ids, grad, None, five, adamw, 0, with_codes))
    torch.library.opcheck(row_sgd_catch_up_.registered, (w, m, None, last, ids, four, sgd, 0))
    torch.library.opcheck(row_adamw_catch_up_.registered, (w, m, v, last, ids, five, adamw, 0))


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(ids=torch.tensor([1, 8])), "ids holds a value"),
        (dict(ids=torch.tensor([-1, 2])), "ids holds a value"),
        (dict(ids=torch.tensor([4, 1])), "ids does not ascend"),
        (dict(ids=torch.tensor([4, 4])), "ids does not ascend"),
        (dict(numbers=numbers(7, 0.1, 0.9, 0, 0)), "last holds a step"),
        (dict(numbers=numbers(0, 0.1, 0.9, 0, 0)), "last holds a step"),
        (dict(grad=torch.zeros(3, 5)), r"grad is .* should be .*\[2, 5\]"),
        (dict(momentum=torch.zeros(8, 4)), "momentum is"),
        (dict(table=torch.ones(5, 5, dtype=torch.float64)), "table is"),
        (dict(table=torch.ones(5, 4)), "table is torch.float32"),
        (dict(last=torch.zeros(8)), "last is torch.float32"),
        (dict(numbers=torch.zeros(9, dtype=torch.float64)), r"numbers is .* should be .*\[5\]"),
    ],
)
def test_bad_arguments_are_named_and_nothing_has_changed(change, words):
    w, m, _, last, ids, grad = arguments()
    table = torch.ones(6, 4, dtype=torch.float64)
    call = (
        dict(
            weight=w,
            momentum=m,
            scales=None,
            last=last,
            ids=ids,
            grad=grad,
            norms=None,
            table=table,
            numbers=numbers(2, 0.1, 0.9, 0, 0),
            seed=0,
            with_codes=False,
        )
        | change
    )
    before = w.clone()
    with pytest.raises(ValueError, match=words):
        row_sgd_(**call)
    assert torch.equal(w, before) and not last.any() and not m.any()


def without_momentum(step, catch_up, dtype, momentum, weight_decay):
    generator = torch.Generator().manual_seed(4)
    weight, last = torch.randn(30, 70, generator=generator).to(dtype), torch.zeros(30, dtype=torch.int64)
    table = torch.tensor([[(1 - 0.1 * weight_decay) ** k, 0, 0, 0] for k in range(9)], dtype=torch.float64)
    (ids, grad), hyper = draw_rows(30, 70, generator), (0.1, 0, weight_decay, 0)
    codes = step(weight, momentum, None, last, ids, grad.to(dtype), None, table, numbers(3, *hyper), 7, True)
    catch_up(weight, momentum, None, last, torch.arange(30), table, numbers(5, *hyper), 7)
    return weight, codes, last


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_without_momentum_no_buffer_is_needed(weight_decay):
    kernels, twins = (row_sgd_, row_sgd_catch_up_), (rows_rounded.row_sgd_torch, rows_rounded.row_sgd_catch_up_torch)
    for ops, dtype in ((kernels, torch.float32), (kernels, torch.bfloat16), (twins, torch.bfloat16)):
        half = dtype == torch.bfloat16
        ours = without_momentum(*ops, dtype, None, weight_decay)
        buffered = without_momentum(*ops, dtype, torch.zeros(30, 70, dtype=dtype), weight_decay)
        for a, b in zip(ours[1:], buffered[1:], strict=True):
            assert torch.equal(a, b)
        torch.testing.assert_close(ours[0], buffered[0], rtol=2**-7 if half else 1e-6, atol=1e-7)
        assert (ours[0] != buffered[0]).float().mean() < (0.01 if half else 1)


# ------------------------------------------------------------------------------------------------ bfloat16


STORED = [(torch.bfloat16, {}), (torch.float8_e4m3fn, {})]
IN_8_BITS = [(kind, {"momentum_dtype": torch.int8}) for kind in (torch.float32, torch.bfloat16, torch.float8_e4m3fn)]


def after_steps(backend_name, optimizer, options, kind, n, d):
    """The weight, and what its optimizer keeps of it, in float32."""
    generator = torch.Generator().manual_seed(n)
    weight = torch.nn.Parameter((torch.randn(n, d, generator=generator) / d**0.5).to(kind))
    if kind == torch.float8_e4m3fn:
        weight.grad_dtype = torch.bfloat16
    trained = optimizer([weight], **options, seed=2**40 + 5)
    with backend.use(backend_name):
        for _ in range(4):
            ids, grad = draw_rows(n, d, generator)
            weight.grad = torch.sparse_coo_tensor(
                ids[None], grad.to(gradient_kind(weight)), weight.shape, is_coalesced=True, check_invariants=False
            )
            trained.step()
        trained.flush()
    kept = [trained.state[weight][name] for name in optimizer.buffers if trained.state[weight][name] is not None]
    if "momentum_dtype" in options and options.get("momentum"):
        assert kept[0].dtype == torch.int8 and kept[1].shape == (n,)
        kept = [kept[0] * kept[1].unsqueeze(1)]
    return weight.detach().float(), *(x.float() for x in kept)


@variants
@pytest.mark.parametrize("optimizer, options", [CASES[0], CASES[3], CASES[4], CASES[6]])
@pytest.mark.parametrize("n, d", [(1, 1), (20, 33), (60, 128)])
def test_rows_are_rounded_as_their_twin_rounds_them(flags, optimizer, options, n, d):
    """By the same random bits; a sum that is rounded once here and twice there may be rounded to a neighbour."""
    for kind, more in STORED + (IN_8_BITS if optimizer is RowSGD else []):
        with build.using(flags):
            ours = after_steps("cpp", optimizer, options | more, kind, n, d)
        twin = after_steps("torch", optimizer, options | more, kind, n, d)
        assert len(ours) == len(twin)
        for a, b in zip(ours, twin, strict=True):
            assert (
                ~torch.isclose(a, b, rtol=1e-5, atol=1e-7)
            ).float().mean() < 0.02  # a scale may differ in its last bit
            torch.testing.assert_close(a, b, rtol=2**-2 if more or kind != torch.bfloat16 else 2**-6, atol=2**-6)


def test_bfloat16_rows_keep_nan_and_infinity_and_give_their_codes():
    grad = torch.tensor([[0x7FFFFFFF, -1, 0x7F800000, -0x800000]], dtype=torch.int32).view(torch.float32)
    weight, momentum = torch.ones(1, 4).bfloat16(), torch.zeros(1, 4).bfloat16()
    last, table = torch.zeros(1, dtype=torch.int64), torch.tensor([[1.0, 0, 0, 1]], dtype=torch.float64)
    step = numbers(1, 1, 0, 0, 0)
    codes = row_sgd_(weight, momentum, None, last, torch.tensor([0]), grad.bfloat16(), None, table, step, 1, True)
    assert momentum[0, :2].isnan().all() and momentum[0, 2:].tolist() == [torch.inf, -torch.inf]
    assert codes.item() == 0b1000 and last.item() == 1
    with pytest.raises(ValueError, match="last holds a step after this one"):
        row_sgd_catch_up_(weight, momentum, None, last, torch.tensor([0]), table, numbers(0, 1, 0, 0, 0), 1)
