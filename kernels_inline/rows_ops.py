"""Row optimizers: ``row_sgd_`` and ``row_adamw_`` step the rows named by ids, ``..._catch_up_`` only bring them up.

The kernels are in ``rows.cpp``. They do, in one pass over each row, what ``annsoftmax_ref.optim`` (their twin:
``apply`` and ``move`` of ``RowSGD`` and ``RowAdamW``) does in a dozen. The bookkeeping stays with the caller:
``table`` [window + 1, 4 or 5] float64 is the table by age as it stood before this step, and the caller advances it.

Common arguments: weight and the optimizer's buffers [N, d] float32, changed in place; momentum None: there is none, and
mu is 0. last [N] int64: the step that each row is up to date with, set to ``step`` for the rows named. ids [A] int64,
ascending and distinct. grad [A, d]. ``step`` is the number of this step, from 1 (in a catch-up: of the last one done).
Where ``with_codes``, the sign codes of the rows as they are afterwards are returned: [A, ceil(d / 64)] int64, bit j of
a row = weight[j] > 0 in bit j % 64 of word j // 64; else [0, ceil(d / 64)].

``..._bf16_`` are the same for weight, buffers and gradient in bfloat16, rounded at random; their twins in plain torch
are in ``rows_bf16``.

All raise ValueError before anything changes, and BuildError where nothing can be built.
"""

import torch
from torch import Tensor

from kernels_inline.bits import words_for
from kernels_inline.checks import check
from kernels_inline.dispatch import call
from kernels_inline.kernel_op import kernel_op


@kernel_op("row_sgd_", needs=("row_sgd", "row_sgd_catch_up"), mutates=("weight", "momentum", "last"))
def row_sgd_(
    weight: Tensor,
    momentum: Tensor | None,
    last: Tensor,
    ids: Tensor,
    grad: Tensor,
    table: Tensor,
    step: int,
    lr: float,
    mu: float,
    weight_decay: float,
    nesterov: bool,
    with_codes: bool,
) -> Tensor:
    """Catch up, then one step of torch.optim.SGD (momentum mu, coupled decay) -> codes."""
    buffers, hyper = {"momentum": momentum}, (lr, mu, weight_decay, nesterov)
    return _step("row_sgd", weight, buffers, last, ids, grad, table, step, hyper, with_codes)


@kernel_op("row_adamw_", needs=("row_adamw", "row_adamw_catch_up"), mutates=("weight", "exp_avg", "exp_avg_sq", "last"))
def row_adamw_(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    last: Tensor,
    ids: Tensor,
    grad: Tensor,
    table: Tensor,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    with_codes: bool,
) -> Tensor:
    """Catch up, then one step of torch.optim.AdamW -> codes."""
    if step < 1:
        raise ValueError(f"step is {step}; it should be at least 1")
    buffers, hyper = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}, (lr, beta1, beta2, eps, weight_decay)
    return _step("row_adamw", weight, buffers, last, ids, grad, table, step, hyper, with_codes)


@kernel_op("row_sgd_catch_up_", needs=("row_sgd", "row_sgd_catch_up"), mutates=("weight", "momentum", "last"))
def row_sgd_catch_up_(
    weight: Tensor, momentum: Tensor | None, last: Tensor, ids: Tensor, table: Tensor, step: int
) -> None:
    """Apply to the rows that lag behind ``step`` the SGD steps they missed."""
    _catch_up("row_sgd_catch_up", weight, {"momentum": momentum}, last, ids, table, step)


@kernel_op(
    "row_adamw_catch_up_",
    needs=("row_adamw", "row_adamw_catch_up"),
    mutates=("weight", "exp_avg", "exp_avg_sq", "last"),
)
def row_adamw_catch_up_(
    weight: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, last: Tensor, ids: Tensor, table: Tensor, step: int, eps: float
) -> None:
    """Apply to the rows that lag behind ``step`` the AdamW steps they missed."""
    buffers = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    _catch_up("row_adamw_catch_up", weight, buffers, last, ids, table, step, eps)


@kernel_op("row_sgd_bf16_", needs=("row_sgd_bf16", "row_sgd_catch_up_bf16"), mutates=("weight", "momentum", "last"))
def row_sgd_bf16_(
    weight: Tensor,
    momentum: Tensor | None,
    last: Tensor,
    ids: Tensor,
    grad: Tensor,
    table: Tensor,
    step: int,
    lr: float,
    mu: float,
    weight_decay: float,
    nesterov: bool,
    seed: int,
    with_codes: bool,
) -> Tensor:
    """``row_sgd_`` of bfloat16 rows, rounded at random by seed; see ``rows_bf16``."""
    buffers, hyper = {"momentum": momentum}, (lr, mu, weight_decay, nesterov, seed)
    return _step("row_sgd_bf16", weight, buffers, last, ids, grad, table, step, hyper, with_codes)


@kernel_op(
    "row_adamw_bf16_",
    needs=("row_adamw_bf16", "row_adamw_catch_up_bf16"),
    mutates=("weight", "exp_avg", "exp_avg_sq", "last"),
)
def row_adamw_bf16_(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    last: Tensor,
    ids: Tensor,
    grad: Tensor,
    table: Tensor,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    seed: int,
    with_codes: bool,
) -> Tensor:
    """``row_adamw_`` of bfloat16 rows, rounded at random by seed; see ``rows_bf16``."""
    if step < 1:
        raise ValueError(f"step is {step}; it should be at least 1")
    buffers, hyper = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}, (lr, beta1, beta2, eps, weight_decay, seed)
    return _step("row_adamw_bf16", weight, buffers, last, ids, grad, table, step, hyper, with_codes)


@kernel_op(
    "row_sgd_catch_up_bf16_", needs=("row_sgd_bf16", "row_sgd_catch_up_bf16"), mutates=("weight", "momentum", "last")
)
def row_sgd_catch_up_bf16_(
    weight: Tensor, momentum: Tensor | None, last: Tensor, ids: Tensor, table: Tensor, step: int, seed: int
) -> None:
    """``row_sgd_catch_up_`` of bfloat16 rows."""
    _catch_up("row_sgd_catch_up_bf16", weight, {"momentum": momentum}, last, ids, table, step, seed)


@kernel_op(
    "row_adamw_catch_up_bf16_",
    needs=("row_adamw_bf16", "row_adamw_catch_up_bf16"),
    mutates=("weight", "exp_avg", "exp_avg_sq", "last"),
)
def row_adamw_catch_up_bf16_(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    last: Tensor,
    ids: Tensor,
    table: Tensor,
    step: int,
    eps: float,
    seed: int,
) -> None:
    """``row_adamw_catch_up_`` of bfloat16 rows."""
    buffers = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    _catch_up("row_adamw_catch_up_bf16", weight, buffers, last, ids, table, step, eps, seed)


def _step(
    launcher: str, weight, buffers: dict[str, Tensor | None], last, ids, grad, table, step, hyper, with_codes
) -> Tensor:
    _check(launcher, weight, buffers, last, ids, table)
    check("grad", grad, weight.dtype, (len(ids), weight.shape[1]))
    codes = _empty_codes(weight, ids, with_codes)
    rows = weight, *buffers.values(), last, *weight.shape, ids, len(ids)
    _run(launcher, *rows, grad, table, len(table) - 1, step, *hyper, codes if with_codes else None)
    return codes


def _catch_up(launcher: str, weight, buffers: dict[str, Tensor | None], last, ids, table, step, *hyper) -> None:
    _check(launcher, weight, buffers, last, ids, table)
    rows = weight, *buffers.values(), last, *weight.shape, ids, len(ids)
    _run(launcher, *rows, table, len(table) - 1, step, *hyper)


def _check(
    launcher: str, weight: Tensor, buffers: dict[str, Tensor | None], last: Tensor, ids: Tensor, table: Tensor
) -> None:
    dtype = torch.bfloat16 if launcher.endswith("_bf16") else torch.float32
    check("weight", weight, dtype, ("N", "d"))
    for name, buffer in buffers.items():
        if buffer is not None:
            check(name, buffer, dtype, weight.shape)
    check("last", last, torch.int64, (len(weight),))
    check("ids", ids, torch.int64, ("A",))
    check("table", table, torch.float64, ("window + 1", 3 + len(buffers)))


def _run(function: str, *arguments) -> None:
    problem = call(function, *arguments)
    if problem:
        raise ValueError(_PROBLEMS[problem])


_PROBLEMS = {
    1: "ids holds a value that is not the number of a row of weight",
    2: "ids does not ascend; it should name each row once, in ascending order",
    3: "last holds a step after this one, or one that lies further back than table reaches",
}


def _empty_codes(weight: Tensor, ids: Tensor, with_codes: bool) -> Tensor:
    rows = ids.shape[0] if with_codes else 0
    return weight.new_empty(rows, words_for(weight.shape[1]), dtype=torch.int64)


@row_sgd_.register_fake
def _(weight, momentum, last, ids, grad, table, step, lr, mu, weight_decay, nesterov, with_codes):
    return _empty_codes(weight, ids, with_codes)


@row_adamw_.register_fake
def _(weight, exp_avg, exp_avg_sq, last, ids, grad, table, step, lr, beta1, beta2, eps, weight_decay, with_codes):
    return _empty_codes(weight, ids, with_codes)


@row_sgd_catch_up_.register_fake
def _(weight, momentum, last, ids, table, step):
    return None


@row_adamw_catch_up_.register_fake
def _(weight, exp_avg, exp_avg_sq, last, ids, table, step, eps):
    return None


@row_sgd_bf16_.register_fake
def _(weight, momentum, last, ids, grad, table, step, lr, mu, weight_decay, nesterov, seed, with_codes):
    return _empty_codes(weight, ids, with_codes)


@row_adamw_bf16_.register_fake
def _(weight, exp_avg, exp_avg_sq, last, ids, grad, table, step, lr, beta1, beta2, eps, decay, seed, with_codes):
    return _empty_codes(weight, ids, with_codes)


@row_sgd_catch_up_bf16_.register_fake
def _(weight, momentum, last, ids, table, step, seed):
    return None


@row_adamw_catch_up_bf16_.register_fake
def _(weight, exp_avg, exp_avg_sq, last, ids, table, step, eps, seed):
    return None
