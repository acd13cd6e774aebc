"""An index that follows rows which move: their codes are written anew, before it is asked again."""

from __future__ import annotations

from torch import Tensor

from annsoftmax_ref.host_numbers import advance
from annsoftmax_ref.index import IVFBinaryIndex
from annsoftmax_ref.row_log import RowLog
from annsoftmax_ref.row_parameter import row_state

REPLACED = 0.1  # of the codes' bits: where more are wrong, the rows are no longer those that the lists were made of


def follow(index: IVFBinaryIndex, log: RowLog, weight: Tensor) -> None:
    """Rewrite the codes of the rows that moved since the last call. Where too many rows are others than those that the
    lists were made of, the index is ``outdated`` from then on."""
    row_state(weight).look(weight)
    if not log:
        return
    advance(index.clock, lambda clock: clock + 1)
    moved, everything = log.moved, log.everything
    log.clear()
    if everything:
        index.outdated |= index.update_all(weight) > REPLACED
        return
    for ids, codes in moved:
        if codes is None:
            index.update_rows(weight, ids)
        else:
            index.write_codes(ids, codes)  # made by the optimizer's kernel on the way
