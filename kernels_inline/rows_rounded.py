"""Row optimizers that round at random, for weights and buffers that take less memory: plain torch that equals
``cuda/rows.cu`` bit for bit.

``rows.cpp`` has the same random bits and multiplies and adds in one operation where the machine can, so that now and
then a number is rounded the other way there.

Rounding to the nearest loses every update that is smaller than half the spacing of a kind of numbers, in bfloat16 1/256
of the weight: training stops. Rounding up with the probability of the part that is cut off is right on average instead.
(Gupta, Agrawal, Gopalakrishnan and Narayanan, "Deep Learning with Limited Numerical Precision", 2015.) So weights may
even be in 8 bits, e4m3 with a spacing of 1/16 to 1/8 of the number, and of 2^-9 below 2^-6, without any scale: what a
row of length 1 holds is of about 1 / sqrt(d). (ELMO, arXiv 2510.11168, trains such weights.) A momentum in 8 bits is
int8 times a scale for each row, the largest of its numbers / 127. (Dettmers, Lewis, Shleifer and Zettlemoyer, "8-bit
Optimizers via Block-wise Quantization", 2022; here a block is a row, steps are equal, and rounding is at random.)

The random bits are a hash of (seed, step, row, column), so they need no state, do not depend on the order in which rows
are done, and are the same on every device. The arithmetic in between is float32, every operation rounded by itself.

Common arguments: as in ``rows_ops``. A row that is up to date is not rounded again, so every rounding has random bits
of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels_inline.bits import pack_bits

WORD = (1 << 64) - 1
TINY = torch.finfo(torch.float32).tiny
NORM_FLOOR = 1e-12
ROWS = 1 << 13  # that are done at a time: their random bits take 8 bytes a number


# ------------------------------------------------------------------------------------------------------------ rounding


def row_states(seed: int | Tensor, step: int | Tensor, ids: Tensor) -> Tensor:
    """The state of SplitMix64 for each row [n], int64."""
    return _mixed(ids ^ _mixed(_mixed(seed) ^ step))  # without a number that is sent to the device


def random_bits(states: Tensor, d: int) -> Tensor:
    """64 random bits for each column of rows with these states [n]: outputs 0..d-1 of SplitMix64 [n, d], int64."""
    columns = torch.arange(1, d + 1, device=states.device)
    return _mixed(states[:, None] + columns * _signed(0x9E3779B97F4A7C15))


def round_at_random(x: Tensor, bits: Tensor, field: int, kind: torch.dtype = torch.bfloat16) -> Tensor:
    """x float32 rounded to bfloat16 or float8_e4m3fn, up or down by 16 of the bits (of the same shape): those from
    16 * field on.

    Up with a probability of the part that is cut off, in units of the spacing. A NaN stays a NaN; in 8 bits, what is
    larger than 448 becomes that.
    """
    if kind == torch.float32:
        return x
    random = bits >> 16 * field & 0xFFFF
    whole = x.contiguous().view(torch.int32).long() & 0xFFFFFFFF
    if kind == torch.bfloat16:
        rounded = torch.where(x.isnan(), whole >> 16 | 0x40, (whole + random) >> 16)
        return torch.where(rounded < 1 << 15, rounded, rounded - (1 << 16)).to(torch.int16).view(torch.bfloat16)
    size = whole & 0x7FFFFFFF
    small = x.abs().clamp_max(2.0**-6).nan_to_num(0.0)
    below = ((small * 2.0**25).long() + random) >> 16
    above = ((size + (random << 4)) >> 20).clamp_max((120 << 3) + 0x7E) - (120 << 3)
    code = torch.where(x.isnan(), 0x7F, torch.where(size < 121 << 23, below, above))
    return (code | whole >> 24 & 0x80).to(torch.uint8).view(torch.float8_e4m3fn)


def round_to_steps(x: Tensor, bits: Tensor, field: int) -> tuple[Tensor, Tensor]:
    """Rows x [n, d] float32 -> int8 [n, d], rounded at random as above, and the scale of each row [n].

    A row that holds a NaN, or an infinity, has a scale that is none.
    """
    scale = x.abs().amax(dim=1) / 127
    steps = x / scale.unsqueeze(1)
    steps = torch.where(steps.abs() <= 128, steps, 0.0)  # not where all are 0, or one is no number
    rounded = ((steps * 65536).floor().long() + (bits >> 16 * field & 0xFFFF)) >> 16
    return rounded.clamp(-127, 127).to(torch.int8), scale


def _mixed(x: int | Tensor) -> int | Tensor:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014; constants of Vigna's splitmix64.c), on int64 as 64 bits."""
    if isinstance(x, int):
        return _mixed_number(x)
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


def sgd_move(w, v, grad, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """A step by grad [n, d] float32; numbers as ``rows_ops`` has them."""
    _, lr, mu, weight_decay, nesterov = numbers.unbind()
    g = grad + weight_decay * w
    v = mu * v + g
    return w - lr * torch.where(nesterov != 0, g + mu * v, v), v


def adamw_catch_up(w, m, v, entries: Tensor, eps: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Steps missed, by entries [n, 5] float64 of the table. w, m, v [n, d] float32 -> new w, m, v."""
    s1, s2 = entries[:, 3:4], entries[:, 4:5]
    floor = torch.where(s1 > 0, s2 / s1 * eps, 0.0).float()
    shrink, keep_m, keep_v, drift = entries[:, :4].float()[:, :, None].unbind(1)
    return shrink * w - drift * m / (_root(v) + floor).clamp_min(TINY), keep_m * m, keep_v * v


def adamw_move(w, m, v, grad, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A step by grad [n, d] float32; numbers as ``rows_ops`` has them."""
    _, eps, decay, rate, lift, beta1, rest1, beta2, rest2 = numbers.unbind()
    m = beta1 * m + rest1 * grad
    v = beta2 * v + rest2 * (grad * grad)
    return decay * w - rate * m / (_root(v) * lift + eps), m, v


def _root(x: Tensor) -> Tensor:
    """The root of x float32, to the last bit; torch's own, by MKL, is now and then the neighbour."""
    return x.double().sqrt().float()


# ---------------------------------------------------------------------------------------------------------------- rows


def row_sgd_torch(weight, momentum, scales, last, ids, grad, norms, table, numbers, seed, with_codes) -> Tensor:
    """Catch up, then one step of torch.optim.SGD (momentum mu, coupled decay) -> codes."""
    step = numbers[0].long()
    for some, slope, lengths in _parts(ids, grad, norms):
        parts = sgd_catch_up(*_read(some, weight, momentum, scales=scales), table[step - 1 - last[some]])
        parts = sgd_move(*parts, _of_rows(parts[0], slope, lengths), numbers)
        _write(some, (weight, momentum), parts, last, step, seed, scales)
    return _codes(weight, ids, with_codes)


def row_adamw_torch(weight, exp_avg, exp_avg_sq, last, ids, grad, norms, table, numbers, seed, with_codes) -> Tensor:
    """Catch up, then one step of torch.optim.AdamW -> codes."""
    step = numbers[0].long()
    for some, slope, lengths in _parts(ids, grad, norms):
        lagging = _read(some, weight, exp_avg, exp_avg_sq)
        parts = adamw_catch_up(*lagging, table[step - 1 - last[some]], numbers[1])
        parts = adamw_move(*parts, _of_rows(parts[0], slope, lengths), numbers)
        _write(some, (weight, exp_avg, exp_avg_sq), parts, last, step, seed)
    return _codes(weight, ids, with_codes)


def row_sgd_catch_up_torch(weight, momentum, scales, last, ids, table, numbers, seed) -> None:
    """Apply to the rows that lag the SGD steps they missed."""
    step = numbers[0].long()
    for some in ids[last[ids] < step].split(ROWS):
        parts = sgd_catch_up(*_read(some, weight, momentum, scales=scales), table[step - last[some]])
        _write(some, (weight, momentum), parts, last, step, seed, scales)


def row_adamw_catch_up_torch(weight, exp_avg, exp_avg_sq, last, ids, table, numbers, seed) -> None:
    """Apply to the rows that lag the AdamW steps they missed."""
    step = numbers[0].long()
    for some in ids[last[ids] < step].split(ROWS):
        parts = adamw_catch_up(*_read(some, weight, exp_avg, exp_avg_sq), table[step - last[some]], numbers[1])
        _write(some, (weight, exp_avg, exp_avg_sq), parts, last, step, seed)


def row_sgd_gather_torch(weight, momentum, scales, last, ids, table, numbers, half) -> tuple[Tensor, Tensor]:
    """Unit rows [A, d], and norms [A], after the steps of torch.optim.SGD that they missed."""
    missed = table[numbers[0].long() - last[ids]]
    return _units(sgd_catch_up(*_read(ids, weight, momentum, scales=scales), missed)[0], half)


def row_adamw_gather_torch(weight, exp_avg, exp_avg_sq, last, ids, table, numbers, half) -> tuple[Tensor, Tensor]:
    """Unit rows [A, d], and norms [A], after the steps of torch.optim.AdamW that they missed."""
    missed = table[numbers[0].long() - last[ids]]
    return _units(adamw_catch_up(*_read(ids, weight, exp_avg, exp_avg_sq), missed, numbers[1])[0], half)


def _units(rows: Tensor, half: bool) -> tuple[Tensor, Tensor]:
    norms = rows.double().norm(dim=1).float().clamp_min(NORM_FLOOR)
    unit = rows / norms.unsqueeze(1)
    return unit.bfloat16() if half else unit, norms


def _parts(ids: Tensor, grad: Tensor, norms: Tensor | None):
    """Some rows at a time: ids, gradient, and norms or None."""
    lengths = [None] * -(-len(ids) // ROWS) if norms is None else norms.split(ROWS)
    return zip(ids.split(ROWS), grad.split(ROWS), lengths or [None], strict=True)


def _of_rows(rows: Tensor, slope: Tensor, norms: Tensor | None) -> Tensor:
    """The gradient of rows [n, d] in float32: slope [n, d], or, if that is of unit rows, (g - (g.u) u) / |w|."""
    slope = slope.float()
    if norms is None:
        return slope
    norms = norms.unsqueeze(1)
    dot = (slope.double() * rows.double()).sum(dim=1, keepdim=True)
    along = torch.where(norms > NORM_FLOOR, dot / norms / norms, 0.0).float()  # (g.u) / |w|
    return (slope - along * rows) / norms


def _read(ids: Tensor, weight: Tensor, *buffers: Tensor | None, scales: Tensor | None = None) -> list[Tensor]:
    rows = weight[ids].float()
    found = [torch.zeros_like(rows) if buffer is None else buffer[ids].float() for buffer in buffers]
    return [rows, *(found if scales is None else [part * scales[ids].unsqueeze(1) for part in found])]


def _write(ids, arrays, parts, last, step: Tensor, seed: int, scales: Tensor | None = None) -> None:
    bits = random_bits(row_states(seed, step, ids), arrays[0].shape[1])
    for field, (array, part) in enumerate(zip(arrays, parts, strict=True)):
        if array is None:
            continue
        if array.dtype == torch.int8:
            array[ids], scales[ids] = round_to_steps(part, bits, field)
        else:
            array[ids] = round_at_random(part, bits, field, array.dtype)
    last[ids] = step


def _codes(weight: Tensor, ids: Tensor, with_codes: bool) -> Tensor:
    return pack_bits(weight[ids if with_codes else ids[:0]].float() > 0)
