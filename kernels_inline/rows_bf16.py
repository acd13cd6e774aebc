"""Row optimizers in bf16 with stochastic rounding: plain torch that equals ``cuda/rows.cu`` bit for bit.

``rows.cpp`` has the same random bits and multiplies and adds in one operation where the machine can, so that now and
then a number is rounded the other way there.

Rounding to the nearest loses every update that is smaller than half the spacing of bf16 numbers, 1/256 of the weight:
training stops. Rounding up with the probability of the part that is cut off is right on average instead. (Gupta,
Agrawal, Gopalakrishnan and Narayanan, "Deep Learning with Limited Numerical Precision", 2015.)

The random bits are a hash of (seed, step, row, column), so they need no state, do not depend on the order in which rows
are done, and are the same on every device. The arithmetic in between is float32, every operation rounded by itself.

Common arguments: as in ``rows_ops``, with weight and buffers [N, d] and grad [A, d] in bfloat16, and
``seed``. A row that is up to date is not rounded again, so every rounding has random bits of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels_inline.bits import pack_bits

WORD = (1 << 64) - 1
TINY = torch.finfo(torch.float32).tiny
ROWS = 1 << 13  # that are done at a time: their random bits take 8 bytes a number


# ------------------------------------------------------------------------------------------------------------ rounding


def row_states(seed: int, step: int, ids: Tensor) -> Tensor:
    """The state of SplitMix64 for each row [n], int64."""
    return _mixed(ids ^ _mixed_number(_mixed_number(seed) ^ step))  # without a number that is sent to the device


def random_bits(states: Tensor, d: int) -> Tensor:
    """64 random bits for each column of rows with these states [n]: outputs 0..d-1 of SplitMix64 [n, d], int64."""
    columns = torch.arange(1, d + 1, device=states.device)
    return _mixed(states[:, None] + columns * _signed(0x9E3779B97F4A7C15))


def round_at_random(x: Tensor, bits: Tensor, field: int) -> Tensor:
    """x float32 rounded to bfloat16, up or down by 16 of the bits (of the same shape): those from 16 * field on.

    Up with a probability of the part that is cut off, in units of the spacing. A NaN stays a NaN.
    """
    whole = x.contiguous().view(torch.int32).long() & 0xFFFFFFFF
    rounded = (whole + (bits >> 16 * field & 0xFFFF)) >> 16
    rounded = torch.where(x.isnan(), whole >> 16 | 0x40, rounded)
    return torch.where(rounded < 1 << 15, rounded, rounded - (1 << 16)).to(torch.int16).view(torch.bfloat16)


def _mixed(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014; constants of Vigna's splitmix64.c), on int64 as 64 bits."""
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _mixed_number(x: int) -> int:
    """``_mixed`` of one number."""
    x &= WORD
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB & WORD
    return _signed(x ^ x >> 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    return x >> by & (1 << 64 - by) - 1  # torch's own shift keeps the sign


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


# ---------------------------------------------------------------------------------------------------------- arithmetic


def sgd_catch_up(w: Tensor, v: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """Steps missed, by entries [n, 4] float64 of the table. w, v [n, d] float32 -> new w, v."""
    ww, wv, vw, vv = entries.float()[:, :, None].unbind(1)
    return ww * w + wv * v, vw * w + vv * v


def sgd_move(w, v, grad, lr: float, mu: float, weight_decay: float, nesterov: bool) -> tuple[Tensor, Tensor]:
    g = grad + weight_decay * w
    v = mu * v + g
    return w - lr * (g + mu * v if nesterov else v), v


def adamw_catch_up(w, m, v, entries: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Steps missed, by entries [n, 5] float64 of the table. w, m, v [n, d] float32 -> new w, m, v."""
    s1, s2 = entries[:, 3:4], entries[:, 4:5]
    floor = torch.where(s1 > 0, s2 / s1 * eps, 0.0).float()
    shrink, keep_m, keep_v, drift = entries[:, :4].float()[:, :, None].unbind(1)
    return shrink * w - drift * m / (_root(v) + floor).clamp_min(TINY), keep_m * m, keep_v * v


def adamw_move(w, m, v, grad, step, lr, beta1, beta2, eps, weight_decay) -> tuple[Tensor, Tensor, Tensor]:
    rate, lift = lr / (1.0 - beta1**step), 1.0 / (1.0 - beta2**step) ** 0.5
    m = beta1 * m + (1.0 - beta1) * grad
    v = beta2 * v + (1.0 - beta2) * (grad * grad)
    return (1.0 - lr * weight_decay) * w - rate * m / (_root(v) * lift + eps), m, v


def _root(x: Tensor) -> Tensor:
    """The root of x float32, to the last bit; torch's own, by MKL, is now and then the neighbour."""
    return x.double().sqrt().float()


# ---------------------------------------------------------------------------------------------------------------- rows


def row_sgd_bf16_(
    weight, momentum, last, ids, grad, table, step, lr, mu, weight_decay, nesterov, seed, with_codes
) -> Tensor:
    """Catch up, then one step of torch.optim.SGD (momentum mu, coupled decay) -> codes."""
    for some, slope in zip(ids.split(ROWS), grad.split(ROWS), strict=True):
        parts = sgd_catch_up(*_read(some, weight, momentum), table[step - 1 - last[some]])
        parts = sgd_move(*parts, slope.float(), lr, mu, weight_decay, nesterov)
        _write(some, (weight, momentum), parts, last, step, seed)
    return _codes(weight, ids, with_codes)


def row_adamw_bf16_(
    weight, exp_avg, exp_avg_sq, last, ids, grad, table, step, lr, beta1, beta2, eps, weight_decay, seed, with_codes
) -> Tensor:
    """Catch up, then one step of torch.optim.AdamW -> codes."""
    for some, slope in zip(ids.split(ROWS), grad.split(ROWS), strict=True):
        parts = adamw_catch_up(*_read(some, weight, exp_avg, exp_avg_sq), table[step - 1 - last[some]], eps)
        parts = adamw_move(*parts, slope.float(), step, lr, beta1, beta2, eps, weight_decay)
        _write(some, (weight, exp_avg, exp_avg_sq), parts, last, step, seed)
    return _codes(weight, ids, with_codes)


def row_sgd_catch_up_bf16_(weight, momentum, last, ids, table, step, seed) -> None:
    """Apply to the rows that lag behind ``step`` the SGD steps they missed."""
    for some in ids[last[ids] < step].split(ROWS):
        parts = sgd_catch_up(*_read(some, weight, momentum), table[step - last[some]])
        _write(some, (weight, momentum), parts, last, step, seed)


def row_adamw_catch_up_bf16_(weight, exp_avg, exp_avg_sq, last, ids, table, step, eps, seed) -> None:
    """Apply to the rows that lag behind ``step`` the AdamW steps they missed."""
    for some in ids[last[ids] < step].split(ROWS):
        parts = adamw_catch_up(*_read(some, weight, exp_avg, exp_avg_sq), table[step - last[some]], eps)
        _write(some, (weight, exp_avg, exp_avg_sq), parts, last, step, seed)


def _read(ids: Tensor, weight: Tensor, *buffers: Tensor | None) -> list[Tensor]:
    rows = weight[ids].float()
    return [rows, *(torch.zeros_like(rows) if buffer is None else buffer[ids].float() for buffer in buffers)]


def _write(ids, arrays, parts, last, step: int, seed: int) -> None:
    bits = random_bits(row_states(seed, step, ids), arrays[0].shape[1])
    for field, (array, part) in enumerate(zip(arrays, parts, strict=True)):
        if array is not None:
            array[ids] = round_at_random(part, bits, field)
    last[ids] = step


def _codes(weight: Tensor, ids: Tensor, with_codes: bool) -> Tensor:
    return pack_bits(weight[ids if with_codes else ids[:0]] > 0)
