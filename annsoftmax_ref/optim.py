"""Row optimizers: a step touches only the rows that have a gradient, and equals the dense optimizer.

``torch.optim.SGD`` and ``AdamW`` move every row in every step, because momentum and weight decay act without
a gradient too. For a row whose gradient is zero for k steps in a row, that movement has a closed form. So
``RowSGD`` and ``RowAdamW`` leave such rows alone and apply the form when the row is next read
(``annsoftmax_ref.rows``), or for all rows at ``flush()``. The form is kept in a table by age, one entry for
each number of steps missed; each step multiplies itself onto the table, so learning rates, momenta and decays
that change are covered. NumPy twin: ``annsoftmax_ref.reference.optim``.

A matrix in bfloat16 or float8_e4m3fn keeps its buffers in bfloat16, and every number that is written to either is
rounded up or down at random, by ``seed``: right on average, where rounding to the nearest would lose each update that
is smaller than half the spacing of such numbers, of bfloat16 1/256 of the weight (``kernels_inline.rows_rounded``).

``buffers_on_host``, which groups of parameters may have of their own, keeps the buffers of weights on a GPU in pinned
memory of the host, where its kernels read and write the rows that move: slower by as much as the bus is than the card's
memory, and classes are limited by weights and codes alone.

Lazy or sparse optimizers elsewhere (``torch.optim.SparseAdam``, TensorFlow's LazyAdam, MXNet's lazy_update)
skip the missed steps, which is another algorithm.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from annsoftmax_ref.row_buffers import RowOps
from annsoftmax_ref.row_optimizer import RowOptimizer
from kernels_inline import row_gather_ops, rows_ops, rows_rounded


class RowSGD(RowOptimizer):
    """``torch.optim.SGD`` (momentum, coupled weight decay, Nesterov) on rows.

    A step without a gradient is linear in (w, v), weight and momentum buffer: v' = mu v + lambda w and
    w' = w - lr v' (Nesterov: w - lr (lambda w + mu v')). The table holds the 2x2 products of these by age.
    Without momentum no buffer is kept. momentum_dtype, which groups of parameters may have of their own: torch.int8
    keeps that of matrices in 8 bits, with a scale for each row, rounded at random; None: as the file's head says.
    Derived in notebook 09, section "A row optimizer".
    """

    buffers = ("momentum_buffer", "momentum_scale")
    ops = RowOps(rows_ops.row_sgd_, rows_ops.row_sgd_catch_up_, row_gather_ops.row_sgd_gather)
    twins = RowOps(rows_rounded.row_sgd_torch, rows_rounded.row_sgd_catch_up_torch, rows_rounded.row_sgd_gather_torch)

    def __init__(
        self,
        params,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        momentum_dtype: torch.dtype | None = None,
        buffers_on_host: bool = False,
        seed: int = 0,
    ):
        _check_hyper(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if momentum >= 1:
            raise ValueError(f"momentum is {momentum}; it should be below 1")
        if nesterov and momentum == 0:
            raise ValueError("nesterov is True but momentum is 0; Nesterov's step needs a momentum above 0")
        if momentum_dtype not in (None, torch.int8):
            raise ValueError(f"momentum_dtype is {momentum_dtype}; it should be torch.int8 or None")
        hyper = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
        super().__init__(params, hyper | dict(momentum_dtype=momentum_dtype, buffers_on_host=buffers_on_host))
        self.seed = seed

    def keeps(self, name: str, weight: Tensor, group: dict) -> bool:
        return group["momentum"] > 0 and (name == "momentum_buffer" or self._in_8_bits(weight))

    def new_buffer(self, name: str, weight: Tensor) -> Tensor:
        if name == "momentum_scale":
            return self.zeros(weight.shape[:1], torch.float32, weight)
        if self._in_8_bits(weight):
            return self.zeros(weight.shape, torch.int8, weight)
        return super().new_buffer(name, weight)

    def rounds(self, weight: Tensor) -> bool:
        return super().rounds(weight) or self._in_8_bits(weight)

    def _in_8_bits(self, weight: Tensor) -> bool:
        return weight.dim() == 2 and self._group_of(weight).get("momentum_dtype") == torch.int8

    def identity(self) -> Tensor:
        return torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=torch.float64)  # ww, wv, vw, vv

    def advanced(self, table: Tensor, group: dict, step: int) -> Tensor:
        lr, mu, decay = group["lr"], group["momentum"], group["weight_decay"]
        moved = torch.tensor([[1 - lr * decay, -lr * mu], [decay, mu]], dtype=torch.float64)
        if group["nesterov"]:
            moved[0] = torch.tensor([1 - lr * (decay + mu * decay), -lr * mu * mu], dtype=torch.float64)
        older = moved @ table[:-1].view(-1, 2, 2)
        return torch.cat([self.identity(), older.view(-1, 4)])

    def apply(self, entries, weight, buffers, group) -> None:
        ww, wv, vw, vv = (c.to(weight.dtype).view(-1, *[1] * (weight.dim() - 1)) for c in entries.unbind(1))
        buf, _ = buffers
        if buf is None:
            weight.mul_(ww)
            return
        moved = ww * weight + wv * buf
        buf.mul_(vv).add_(vw * weight)
        weight.copy_(moved)

    def move(self, weight, grad, buffers, group, step) -> None:
        lr, mu, decay = group["lr"], group["momentum"], group["weight_decay"]
        buf, _ = buffers
        grad = grad.add(weight, alpha=decay) if decay else grad
        if buf is None:
            weight.add_(grad, alpha=-lr)
            return
        buf.mul_(mu).add_(grad)
        weight.add_(grad.add(buf, alpha=mu) if group["nesterov"] else buf, alpha=-lr)

    def numbers(self, group: dict, step: int) -> tuple[float, ...]:
        return step, group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]


class RowAdamW(RowOptimizer):
    """``torch.optim.AdamW`` on rows.

    Without a gradient, k steps give m beta1^k, v beta2^k and w = R w - m sum_j c_j / (d_j sqrt(v) + eps), with
    scalars c_j, d_j of the steps missed. The sum over j is replaced by one term with the same value and the
    same first-order change in eps, S1^2 / (S1 sqrt(v) + S2 eps), S1 = sum c/d, S2 = sum c/d^2: exact as
    eps -> 0, and within 1e-3 of the drift where eps is as large as sqrt(v) (tests/test_optim.py).
    Derived in notebook 09, section "Adam: nearly a closed form".
    """

    buffers = ("exp_avg", "exp_avg_sq")
    ops = RowOps(rows_ops.row_adamw_, rows_ops.row_adamw_catch_up_, row_gather_ops.row_adamw_gather)
    twins = RowOps(
        rows_rounded.row_adamw_torch, rows_rounded.row_adamw_catch_up_torch, rows_rounded.row_adamw_gather_torch
    )

    def __init__(
        self,
        params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        buffers_on_host: bool = False,
        seed: int = 0,
    ):
        _check_hyper(lr=lr, eps=eps, weight_decay=weight_decay)
        if not 0 <= betas[0] < 1 or not 0 < betas[1] < 1:
            raise ValueError(f"betas is {betas}; both should be below 1, the first at least 0, the second above 0")
        hyper = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        super().__init__(params, hyper | {"buffers_on_host": buffers_on_host})
        self.seed = seed

    def identity(self) -> Tensor:
        return torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0]], dtype=torch.float64)  # R, m's, v's factor, S1, S2

    def advanced(self, table: Tensor, group: dict, step: int) -> Tensor:
        lr, (beta1, beta2) = group["lr"], group["betas"]
        decay = 1 - lr * group["weight_decay"]
        shrink, m, v, s1, s2 = table[:-1].unbind(1)
        m, v = m * beta1, v * beta2
        c = lr * m / (1 - beta1**step)
        d = (v / (1 - beta2**step)).sqrt()
        older = torch.stack([shrink * decay, m, v, s1 * decay + c / d, s2 * decay + c / d**2], dim=1)
        return torch.cat([self.identity(), older])

    def apply(self, entries, weight, buffers, group) -> None:
        shrink, m, v, s1, s2 = (c.to(weight.dtype).view(-1, *[1] * (weight.dim() - 1)) for c in entries.unbind(1))
        avg, avg_sq = buffers
        # Where eps and v are both 0 there has been no gradient: the drift is 0, not 0 / 0.
        drift = avg * s1**2 / (s1 * avg_sq.sqrt() + s2 * group["eps"]).clamp_min(torch.finfo(weight.dtype).tiny)
        weight.mul_(shrink).sub_(drift)
        avg.mul_(m)
        avg_sq.mul_(v)

    def move(self, weight, grad, buffers, group, step) -> None:
        lr, (beta1, beta2) = group["lr"], group["betas"]
        avg, avg_sq = buffers
        weight.mul_(1 - lr * group["weight_decay"])
        avg.lerp_(grad, 1 - beta1)
        avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        denominator = (avg_sq.sqrt() / (1 - beta2**step) ** 0.5).add_(group["eps"])
        weight.addcdiv_(avg, denominator, value=-lr / (1 - beta1**step))

    def numbers(self, group: dict, step: int) -> tuple[float, ...]:
        lr, (beta1, beta2) = group["lr"], group["betas"]
        # Before the first step there is nothing to divide by, nor to do.
        rate, lift = (lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)) if step else (0.0, 0.0)
        decay = 1 - lr * group["weight_decay"]
        return step, group["eps"], decay, rate, lift, beta1, 1 - beta1, beta2, 1 - beta2


def _check_hyper(**values: float) -> None:
    for name, value in values.items():
        if not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value!r}; it should be a finite number of at least 0")
