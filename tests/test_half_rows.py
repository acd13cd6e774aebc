"""Weights in bfloat16 and in 8 bits: rows and their optimizer's buffers, rounded at random, through the head."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from annsoftmax_ref import (
    AllClasses,
    CosFace,
    CrossEntropy,
    NearestClasses,
    RandomClasses,
    RowAdamW,
    RowSGD,
    SoftmaxHead,
)
from annsoftmax_ref.bench.vectors import clustered_vectors

EIGHT = {"momentum_dtype": torch.int8}
OPTIMIZERS = [(RowSGD, {"lr": 0.3, "momentum": 0.9}), (RowAdamW, {"lr": 0.03})]


def moved(optimizer, options, dtype, steps, grad, rows=400, dim=16, sparse=True):
    """Weights of ones after so many steps of the same gradient."""
    weight = torch.nn.Parameter(torch.ones(rows, dim, dtype=dtype))
    trained = optimizer([weight], **options)
    ids = torch.arange(rows)[None]
    for _ in range(steps):
        values = torch.full((rows, dim), grad, dtype=dtype)
        weight.grad = torch.sparse_coo_tensor(ids, values, weight.shape, is_coalesced=True, check_invariants=False)
        weight.grad = weight.grad if sparse else weight.grad.to_dense()
        trained.step()
    trained.flush()
    return weight.detach(), trained.state[weight]


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("optimizer, options", [(RowSGD, {"lr": 1e-3, "momentum": 0.5}), (RowAdamW, {"lr": 1e-4})])
def test_updates_below_half_the_spacing_are_kept_on_average(optimizer, options, sparse):
    """Near 1 such numbers are 1/128 or 1/256 apart; each step here moves by less than half of that."""
    ours, state = moved(optimizer, options, torch.bfloat16, 20, 0.25, sparse=sparse)
    exact, _ = moved(optimizer, options, torch.float32, 20, 0.25)
    assert all(state[name] is None or state[name].dtype == torch.bfloat16 for name in optimizer.buffers)
    distance = 1 - exact.mean()
    assert 0 < distance < 0.02 and abs(ours.float().mean() - exact.mean()) < 0.1 * distance
    to_nearest = torch.ones(1, dtype=torch.bfloat16)
    for _ in range(20):
        to_nearest -= distance / 20
    assert to_nearest == 1  # what rounding to the nearest makes of it


@pytest.mark.parametrize("optimizer, options", OPTIMIZERS)
def test_rounding_follows_the_seed(optimizer, options):
    once, again, other = (moved(optimizer, options | {"seed": seed}, torch.bfloat16, 3, 0.1)[0] for seed in (0, 0, 1))
    assert torch.equal(once, again) and not torch.equal(once, other)


@pytest.mark.parametrize("optimizer, options", OPTIMIZERS)
def test_rows_that_lag_are_caught_up_when_they_are_read(optimizer, options, generator):
    half, fine = (
        torch.nn.Parameter(torch.randn(300, 64, generator=torch.Generator().manual_seed(1)).to(dtype))
        for dtype in (torch.bfloat16, torch.float32)
    )
    with torch.no_grad():
        fine.copy_(half)
    trained = [optimizer([weight], **options) for weight in (half, fine)]
    for step in range(12):
        ids = torch.arange(150 if step else 0, 300)[None]  # the first half moves once, and then by its momentum
        grad = torch.randn(ids.shape[1], 64, generator=generator) if not step else torch.zeros(ids.shape[1], 64)
        for weight, one in zip((half, fine), trained, strict=True):
            weight.grad = torch.sparse_coo_tensor(
                ids, grad.to(weight.dtype), weight.shape, is_coalesced=True, check_invariants=False
            )
            one.step()
    for one in trained:
        one.flush()
    wrong = (half.detach().float() - fine.detach()).abs()
    # Rounded twice in all, where the others are rounded in each of twelve steps.
    assert 0 < wrong[:150].mean() < 0.01 and wrong[:150].mean() < 0.7 * wrong[150:].mean() < 0.05


@pytest.mark.parametrize("optimizer, options", OPTIMIZERS)
@pytest.mark.parametrize("selector", [AllClasses, lambda: RandomClasses(0.3), lambda: NearestClasses(0.3)])
def test_a_head_in_half_trains_as_one_in_full(selector, optimizer, options):
    vectors = clustered_vectors(300, 32, 300)
    losses = {}
    stored = [(torch.float32, {}), (torch.bfloat16, {}), (torch.float8_e4m3fn, {})]
    stored += [(torch.bfloat16, EIGHT), (torch.float8_e4m3fn, EIGHT)] if optimizer is RowSGD else []
    for dtype, more in stored:
        head = SoftmaxHead(300, 32, selector(), CosFace(16, 0.1), dtype=dtype, seed=1)
        trained = optimizer(head.parameters(), **options, **more)
        generator = torch.Generator().manual_seed(0)
        for _ in range(60):
            labels = torch.randint(300, (64,), generator=generator)
            head(vectors.rows[labels] + 0.1 * torch.randn(64, 32, generator=generator), labels).backward()
            trained.step()
            trained.zero_grad()
        assert head.weight.dtype == dtype
        losses[dtype, len(more)] = head.eval()(vectors.rows, torch.arange(300)).item()
    exact = losses.pop((torch.float32, 0))
    assert exact < 2
    for (dtype, _), loss in losses.items():
        assert abs(loss / exact - 1) < (0.1 if dtype == torch.bfloat16 else 0.2), losses


def test_half_takes_half_the_memory_and_bias_and_weights_of_classes_stay_fine():
    head = SoftmaxHead(
        50, 8, RandomClasses(0.5), CrossEntropy(10.0), bias=True, class_weights=torch.ones(50), dtype=torch.bfloat16
    )
    assert head.weight.element_size() == 2
    assert head.bias.dtype == head.class_weights.dtype == torch.float32
    x = torch.randn(6, 8, requires_grad=True)
    head(x, torch.arange(6)).backward()
    assert x.grad.isfinite().all() and head.weight.grad.dtype == torch.bfloat16
    assert head.topk(x, 3)[0].dtype == torch.float32


def test_first_directions_are_those_of_float32_rounded():
    half, fine = (SoftmaxHead(40, 12, dtype=dtype, seed=3).weight.detach() for dtype in (torch.bfloat16, torch.float32))
    assert torch.equal(half, fine.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("more", [{}, EIGHT])
def test_a_run_that_is_saved_goes_on_bit_for_bit(dtype, more):
    def step(head, trained, seed):
        draw = torch.Generator().manual_seed(seed)
        x, labels = F.normalize(torch.randn(32, 16, generator=draw), dim=1), torch.randint(200, (32,), generator=draw)
        head(x, labels).backward()
        trained.step()
        trained.zero_grad()

    head = SoftmaxHead(200, 16, NearestClasses(0.4), dtype=dtype)
    trained = RowSGD(head.parameters(), lr=0.1, momentum=0.9, seed=5, **more)
    for seed in range(3):
        step(head, trained, seed)
    saved = copy.deepcopy((trained.state_dict(), head.state_dict()))
    twin = SoftmaxHead(200, 16, NearestClasses(0.4), dtype=dtype)
    twin_trained = RowSGD(twin.parameters(), lr=0.1, momentum=0.9, seed=5, **more)
    twin_trained.load_state_dict(saved[0])
    twin.load_state_dict(saved[1])
    for seed in range(3, 6):
        step(head, trained, seed)
        step(twin, twin_trained, seed)
    for one in (trained, twin_trained):
        one.flush()
    assert torch.equal(head.weight.float(), twin.weight.float())


def test_what_a_head_in_8_bits_can_do():
    """Everything that is done with a weight: read, scored, copied, saved, moved; its gradient is in bfloat16."""
    fine = SoftmaxHead(60, 16, RandomClasses(0.5), seed=1)
    head = SoftmaxHead(60, 16, RandomClasses(0.5), seed=1, dtype=torch.float8_e4m3fn)
    with torch.no_grad():
        fine.weight.copy_(head.weight.float())
    x, labels = torch.randn(9, 16), torch.arange(9)
    for one in (head, copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        torch.testing.assert_close(one.logits(x), fine.logits(x))
        torch.testing.assert_close(one.logits(x, labels), fine.logits(x, labels))
        torch.testing.assert_close(one.topk(x, 5), fine.topk(x, 5))
        torch.testing.assert_close(one.prototypes(), fine.prototypes())
        torch.testing.assert_close(one.eval()(x, labels), fine.eval()(x, labels))
        one.train()(x, labels).backward()
        assert one.weight.grad.dtype == torch.bfloat16 and one.weight.grad.is_sparse
        one.weight.grad = None
    head.load_state_dict(head.state_dict())
    assert set(head.diagnose(x, labels, k=5)) == set(fine.diagnose(x, labels, k=5))
    dense = SoftmaxHead(60, 16, AllClasses(), seed=1, dtype=torch.float8_e4m3fn)
    dense(x, labels).backward()
    assert dense.weight.grad.dtype == torch.bfloat16 and not dense.weight.grad.is_sparse
    with pytest.raises(ValueError, match="sparse is False with a weight in 8 bits"):
        SoftmaxHead(60, 16, RandomClasses(0.5), sparse=False, dtype=torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="momentum_dtype is torch.int4; it should be torch.int8 or None"):
        RowSGD(head.parameters(), lr=0.1, momentum=0.9, momentum_dtype=torch.int4)


def test_a_momentum_in_8_bits_is_a_byte_a_number_of_matrices():
    weight, bias = torch.nn.Parameter(torch.randn(6, 40)), torch.nn.Parameter(torch.randn(6))
    other = torch.nn.Parameter(torch.randn(5, 40))
    trained = RowSGD([{"params": [weight, bias], **EIGHT}, {"params": [other]}], lr=0.1, momentum=0.9)
    for parameter in (weight, bias, other):
        parameter.grad = torch.ones_like(parameter)
    trained.step()
    assert trained.state[weight]["momentum_buffer"].dtype == torch.int8
    assert trained.state[weight]["momentum_scale"].shape == (6,)
    for parameter in (bias, other):
        assert trained.state[parameter]["momentum_buffer"].dtype == torch.float32
        assert trained.state[parameter]["momentum_scale"] is None
    assert set(trained.state_dict()["state"][2]) == {"momentum_buffer", "step", "cursor"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("optimizer, options", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_buffers_on_the_host_change_nothing(dtype, optimizer, options):
    weights = []
    for on_host in (False, True):
        head = SoftmaxHead(400, 32, RandomClasses(0.3), CosFace(16, 0.1), dtype=dtype, seed=1, device="cuda")
        trained = optimizer(head.parameters(), **options, buffers_on_host=on_host)
        generator = torch.Generator().manual_seed(0)
        for _ in range(10):
            x, labels = torch.randn(64, 32, generator=generator), torch.randint(400, (64,), generator=generator)
            head(x.cuda(), labels.cuda()).backward()
            trained.step()
            trained.zero_grad()
        assert trained.state[head.weight][trained.buffers[0]].is_pinned() == on_host
        trained.load_state_dict(copy.deepcopy(trained.state_dict()))
        assert trained.state[head.weight][trained.buffers[0]].is_pinned() == on_host
        weights.append(head.prototypes())
    torch.testing.assert_close(*weights)


def test_buffers_on_the_host_are_those_on_the_cpu_without_a_gpu():
    weight = torch.nn.Parameter(torch.randn(6, 40))
    trained = RowSGD([weight], lr=0.1, momentum=0.9, buffers_on_host=True)
    weight.grad = torch.ones_like(weight)
    trained.step()
    trained.load_state_dict(copy.deepcopy(trained.state_dict()))
    assert torch.equal(trained.state[weight]["momentum_buffer"], torch.ones_like(weight))
