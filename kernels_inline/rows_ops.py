"""Row optimizers: ``row_sgd_`` and ``row_adamw_`` step the rows named by ids, ``..._catch_up_`` only bring them up.

The kernels are in ``rows.cpp``. They do, in one pass over each row, what ``annsoftmax_ref.optim`` (their twin:
``apply`` and ``move`` of ``RowSGD`` and ``RowAdamW``) does in a dozen. The bookkeeping stays with the caller:
``table`` [window + 1, 4 or 5] float64 is the table by age as it stood before this step, and the caller advances it.

Common arguments: weight [N, d] in one of ``checks.ROW_KINDS`` and the optimizer's buffers [N, d], float32 beside
float32, else bfloat16, changed in place; momentum None: there is none, and mu is 0; scales [N] float32: of the rows of
a momentum in int8, which goes with every weight, or None. last [N] int64: the step that each row is up to date with,
set to this one for the rows named. ids [A] int64, ascending and distinct. grad [A, d] of
``checks.gradient_kind(weight)``; norms None, or [A] float32: grad, which then may be in bfloat16 beside any weight, is
that of the rows scaled to length 1, which were divided by norms (``row_gather_ops``). numbers [5 or 9] float64: what
the step is made of, its number first, from 1 (in a catch-up: of the last one done), see ``RowSGD.numbers`` and
``RowAdamW.numbers``; on a GPU they are read there, so that a CUDA graph can be replayed with others. seed: of the
rounding of what is not float32 (``rows_rounded``, whose functions are the twins there).
Where ``with_codes``, the sign codes of the rows as they are afterwards are returned: [A, ceil(d / 64)] int64, bit j of
a row = weight[j] > 0 in bit j % 64 of word j // 64; else [0, ceil(d / 64)].

All raise ValueError before anything changes, and BuildError where nothing can be built.
"""

import torch
from torch import Tensor

from kernels_inline.bits import words_for
from kernels_inline.checks import check, check_rows, gradient_kind
from kernels_inline.dispatch import call
from kernels_inline.kernel_op import kernel_op


@kernel_op("row_sgd_", needs=("row_sgd", "row_sgd_catch_up"), mutates=("weight", "momentum", "scales", "last"))
def row_sgd_(
    weight: Tensor,
    momentum: Tensor | None,
    scales: Tensor | None,
    last: Tensor,
    ids: Tensor,
    grad: Tensor,
    norms: Tensor | None,
    table: Tensor,
    numbers: Tensor,
    seed: int,
    with_codes: bool,
) -> Tensor:
    """Catch up, then one step of torch.optim.SGD (momentum mu, coupled decay) -> codes."""
    buffers = {"momentum": momentum, "scales": scales}
    return _step("row_sgd", weight, buffers, last, ids, grad, norms, table, numbers, seed, with_codes)


@kernel_op("row_adamw_", needs=("row_adamw", "row_adamw_catch_up"), mutates=("weight", "exp_avg", "exp_avg_sq", "last"))
def row_adamw_(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    last: Tensor,
    ids: Tensor,
    grad: Tensor,
    norms: Tensor | None,
    table: Tensor,
    numbers: Tensor,
    seed: int,
    with_codes: bool,
) -> Tensor:
    """Catch up, then one step of torch.optim.AdamW -> codes."""
    buffers = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    return _step("row_adamw", weight, buffers, last, ids, grad, norms, table, numbers, seed, with_codes)


@kernel_op("row_sgd_catch_up_", needs=("row_sgd", "row_sgd_catch_up"), mutates=("weight", "momentum", "scales", "last"))
def row_sgd_catch_up_(
    weight: Tensor,
    momentum: Tensor | None,
    scales: Tensor | None,
    last: Tensor,
    ids: Tensor,
    table: Tensor,
    numbers: Tensor,
    seed: int,
) -> None:
    """Apply to the rows that lag the SGD steps they missed."""
    buffers = {"momentum": momentum, "scales": scales}
    _catch_up("row_sgd_catch_up", weight, buffers, last, ids, table, numbers, seed)


@kernel_op(
    "row_adamw_catch_up_",
    needs=("row_adamw", "row_adamw_catch_up"),
    mutates=("weight", "exp_avg", "exp_avg_sq", "last"),
)
def row_adamw_catch_up_(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    last: Tensor,
    ids: Tensor,
    table: Tensor,
    numbers: Tensor,
    seed: int,
) -> None:
    """Apply to the rows that lag the AdamW steps they missed."""
    buffers = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    _catch_up("row_adamw_catch_up", weight, buffers, last, ids, table, numbers, seed)


def _step(launcher, weight, buffers, last, ids, grad, norms, table, numbers, seed, with_codes) -> Tensor:
    rows = checked_rows(weight, buffers, last, ids, table, numbers)
    half = grad.dtype == torch.bfloat16
    may_be_half = norms is not None and half
    check("grad", grad, torch.bfloat16 if may_be_half else gradient_kind(weight), (len(ids), weight.shape[1]))
    if norms is not None:
        check("norms", norms, torch.float32, (len(ids),))
    codes = _empty_codes(weight, ids, with_codes)
    run(launcher, *rows, grad, half, norms, table, len(table) - 1, numbers, seed, codes if with_codes else None)
    return codes


def _catch_up(launcher, weight, buffers, last, ids, table, numbers, seed) -> None:
    rows = checked_rows(weight, buffers, last, ids, table, numbers)
    run(launcher, *rows, table, len(table) - 1, numbers, seed)


def checked_rows(weight: Tensor, buffers: dict[str, Tensor | None], last, ids, table, numbers) -> tuple:
    """What every launcher takes first, once it is as it should be."""
    kind, sgd = check_rows("weight", weight, ("N", "d")), "momentum" in buffers
    scales = buffers.get("scales")
    for name, buffer in buffers.items():
        if name == "scales" and buffer is not None:
            check(name, buffer, torch.float32, (len(weight),))
        elif buffer is not None:
            check(name, buffer, gradient_kind(weight) if scales is None else torch.int8, weight.shape)
    check("last", last, torch.int64, (len(weight),))
    check("ids", ids, torch.int64, ("A",))
    check("table", table, torch.float64, ("window + 1", 4 if sgd else 5))
    check("numbers", numbers, torch.float64, (5 if sgd else 9,))
    return weight, kind, *buffers.values(), last, *weight.shape, ids, len(ids)


def run(function: str, *arguments) -> None:
    """Call a launcher of rows. ValueError for what it finds in them."""
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
def _(weight, momentum, scales, last, ids, grad, norms, table, numbers, seed, with_codes):
    return _empty_codes(weight, ids, with_codes)


@row_adamw_.register_fake
def _(weight, exp_avg, exp_avg_sq, last, ids, grad, norms, table, numbers, seed, with_codes):
    return _empty_codes(weight, ids, with_codes)


@row_sgd_catch_up_.register_fake
def _(weight, momentum, scales, last, ids, table, numbers, seed):
    return None


@row_adamw_catch_up_.register_fake
def _(weight, exp_avg, exp_avg_sq, last, ids, table, numbers, seed):
    return None
