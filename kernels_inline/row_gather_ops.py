"""``row_sgd_gather`` and ``row_adamw_gather``: rows scaled to length 1 as they will be once they are up to date.

``rows_ops`` and ``head_ops`` do the same in two steps, ``row_..._catch_up_`` and ``gather_normalise``, and between them
every row is written and read again. Here nothing of a row is changed: the step that follows, which takes the gradient
of these unit rows and their norms, catches up on its way.

    unit, norms = row_sgd_gather(weight, momentum, scales, last, ids, table, numbers, half)
    ...                                            # slope [A, d], the gradient of unit
    row_sgd_(weight, momentum, scales, last, ids, slope, norms, table, numbers_of_this_step, seed, with_codes)

Arguments as in ``rows_ops``; numbers: of the last step that was done -> unit [A, d], bfloat16 if ``half`` else float32,
and norms [A] float32, what the rows were divided by: their lengths, at least 1e-12. The kernels are in
``row_gather.cpp``; twins in plain torch: ``rows_rounded``. All raise ValueError, and BuildError.
"""

from torch import Tensor

from kernels_inline.head_ops import empty_units
from kernels_inline.kernel_op import kernel_op
from kernels_inline.rows_ops import checked_rows, run


@kernel_op("row_sgd_gather", needs=("row_sgd_gather",))
def row_sgd_gather(
    weight: Tensor,
    momentum: Tensor | None,
    scales: Tensor | None,
    last: Tensor,
    ids: Tensor,
    table: Tensor,
    numbers: Tensor,
    half: bool,
) -> tuple[Tensor, Tensor]:
    """Unit rows, and norms, after the steps of torch.optim.SGD that they missed."""
    buffers = {"momentum": momentum, "scales": scales}
    return _gather("row_sgd_gather", weight, buffers, last, ids, table, numbers, half)


@kernel_op("row_adamw_gather", needs=("row_adamw_gather",))
def row_adamw_gather(
    weight: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    last: Tensor,
    ids: Tensor,
    table: Tensor,
    numbers: Tensor,
    half: bool,
) -> tuple[Tensor, Tensor]:
    """Unit rows, and norms, after the steps of torch.optim.AdamW that they missed."""
    buffers = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    return _gather("row_adamw_gather", weight, buffers, last, ids, table, numbers, half)


def _gather(launcher, weight, buffers, last, ids, table, numbers, half) -> tuple[Tensor, Tensor]:
    rows = checked_rows(weight, buffers, last, ids, table, numbers)
    unit, norms = empty_units(weight, ids, half)
    run(launcher, *rows, table, len(table) - 1, numbers, half, unit, norms)
    return unit, norms


@row_sgd_gather.register_fake
def _(weight, momentum, scales, last, ids, table, numbers, half):
    return empty_units(weight, ids, half)


@row_adamw_gather.register_fake
def _(weight, exp_avg, exp_avg_sq, last, ids, table, numbers, half):
    return empty_units(weight, ids, half)
