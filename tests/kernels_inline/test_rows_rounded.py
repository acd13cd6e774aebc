"""rows_rounded.py: the random bits, and that what is rounded by them is right on average."""

import numpy as np
import pytest
import torch

from kernels_inline import rows_rounded


def test_random_bits_are_those_of_splitmix64():
    found = rows_rounded.random_bits(torch.tensor([1234567, 0]), 3).numpy().view(np.uint64)
    assert found[0].tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert found[1].tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_seeds_steps_and_rows_have_bits_of_their_own():
    states = [rows_rounded.row_states(seed, step, torch.arange(50)) for seed in (0, 1, -1) for step in range(1, 30)]
    assert len(torch.cat(states).unique()) == 3 * 29 * 50


@pytest.mark.parametrize("field", [0, 1])
def test_rounding_to_8_bits_is_right_on_average(field, generator):
    """Between the neighbours in e4m3, and between whole steps of a row's largest number."""
    n, times = 300, 2000
    x = torch.randn(n, 1, generator=generator) * 10.0 ** torch.randint(-4, 3, (n, 1), generator=generator)
    x = x.clamp(-440, 440)
    bits = rows_rounded.random_bits(rows_rounded.row_states(0, 1, torch.arange(n)), times)
    rounded = rows_rounded.round_at_random(x.expand(n, times), bits, field, torch.float8_e4m3fn).double()
    spacing = torch.maximum(2.0 ** (x.abs().double().log2().floor() - 3), torch.tensor(2.0**-9, dtype=torch.float64))
    assert ((rounded - x).abs() < spacing).all() and all(len(row.unique()) <= 2 for row in rounded)
    errors = (rounded.mean(1, keepdim=True) - x) / (spacing / 2 / times**0.5)  # at most so many standard errors
    assert errors.abs().max() < 5 and abs(float(errors.mean())) < 3 / n**0.5
    codes, scale = rows_rounded.round_to_steps(torch.cat([x.T.expand(times, n), x.T.expand(times, n) * 0.9]), torch.cat(
        [rows_rounded.random_bits(rows_rounded.row_states(5, 2, torch.arange(2 * times)), n)]), field)  # fmt: skip
    mean = (codes.double() * scale.unsqueeze(1))[:times].mean(0)
    assert codes.abs().max() == 127 and ((mean - x.T).abs() < 5 * scale[0] / 2 / times**0.5).all()


def test_8_bits_keep_what_they_can_hold():
    every = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn)
    ones = torch.full((256,), -1)
    again = rows_rounded.round_at_random(every.float(), ones, 0, torch.float8_e4m3fn)
    nan = every.float().isnan()
    assert torch.equal(again.view(torch.uint8)[~nan], every.view(torch.uint8)[~nan])
    assert again.float()[nan].isnan().all()


@pytest.mark.parametrize("field", [0, 1, 2])
def test_rounding_at_random_is_right_on_average(field, generator):
    """Each of 400 numbers is rounded 2000 times: errors of the means as large as chance makes them, and no larger."""
    n, times = 400, 2000
    x = torch.randn(n, 1, generator=generator) * 10.0 ** torch.randint(-30, 30, (n, 1), generator=generator)
    low = (x.view(torch.int32) & -0x10000).view(torch.float32)
    high = ((x.view(torch.int32) & -0x10000) + 0x10000).view(torch.float32)
    bits = rows_rounded.random_bits(rows_rounded.row_states(0, 1, torch.arange(n)), times)
    rounded = rows_rounded.round_at_random(x.expand(n, times), bits, field).float()
    assert ((rounded == low) | (rounded == high)).all()
    part = (x.view(torch.int32) & 0xFFFF).double() / 65536
    share = (rounded == high).double().mean(1, keepdim=True)
    errors = (share - part) / (part * (1 - part) / times).sqrt()  # in standard errors
    assert abs(float(errors.mean())) <= 2 / n**0.5 and abs(float(errors.square().mean()) - 1) <= 2 * (2 / n) ** 0.5


def test_rounding_at_random_keeps_what_bf16_can_hold():
    generator = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(97, generator=generator), torch.tensor([0.0, -0.0, float("inf"), -float("inf")])])
    x, ones = x.bfloat16().float(), torch.full((101,), -1)
    assert torch.equal(rows_rounded.round_at_random(x, ones, 0).float(), x)
    nan = torch.tensor([0x7F800001, 0x7FFFFFFF, -0x7FFFFF], dtype=torch.int32).view(torch.float32)
    assert rows_rounded.round_at_random(nan, ones[:3], 0).isnan().all()


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
        numbers = torch.tensor([step, lr, 0, 0, 0], dtype=torch.float64)
        rows_rounded.row_sgd_torch(weight, momentum, None, last, ids, grad, None, table, numbers, 11, False)
    moved = weight.double() - 1
    standard_error = float(moved.std()) / (n * d) ** 0.5
    assert abs(float(moved.mean()) - steps * lr) <= 2 * standard_error and standard_error < 0.05 * steps * lr
