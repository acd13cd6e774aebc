"""Every row of a weight, a part at a time, so that nothing of the weight's own size is made beside it.

Training reads some rows of a weight (``rows``). These are for what needs all of them: the first directions, and the
exact cosines with all classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref.row_parameter import catch_up
from annsoftmax_ref.rows import cosines, unit_rows

PART = 1 << 24  # numbers of a part: 64 MB


def random_directions(num_rows: int, dim: int, generator: torch.Generator, dtype: torch.dtype, device=None) -> Tensor:
    """[num_rows, dim] rows of length 1, uniformly on the sphere, the same on every device.

    They are drawn on the CPU, in parts and yet as if at once: torch makes normal numbers 16 at a time.
    """
    directions = torch.empty(num_rows, dim, dtype=dtype, device=device)
    fine = torch.promote_types(dtype, torch.float32)  # rounded to half precision last
    for part in _parts(num_rows, dim):
        drawn = torch.randn(part.stop - part.start, dim, generator=generator, dtype=fine)
        directions[part] = F.normalize(drawn, dim=1).to(device)
    return directions


def all_cosines(x: Tensor, weight: Tensor) -> Tensor:
    """x [B, d], rows of length 1, weight [N, d] -> the cosines with all rows [B, N].

    Rows that lag are brought up to date. Where a gradient is taken, all rows of length 1 [N, d] are made, and kept.
    """
    catch_up(weight)
    if torch.is_grad_enabled():
        return cosines(x, unit_rows(weight))
    return torch.cat([cosines(x, unit_rows(weight[part])) for part in _parts(*weight.shape)], dim=1)


@torch.no_grad()
def nearest_of_all(x: Tensor, weight: Tensor, k: int, shifts: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """x [B, d], rows of length 1, weight [N, d] -> the k largest cosines, with shifts [N] added to them, and whose they
    are: [B, k] each, the largest first. Nothing of size [B, N] is made. Rows that lag are brought up to date."""
    catch_up(weight)
    best = classes = None
    for part in _parts(*weight.shape):
        scores = cosines(x, unit_rows(weight[part]))
        scores = scores if shifts is None else scores + shifts[part]
        found, places = scores.topk(min(k, scores.shape[1]), dim=1)
        places += part.start
        if best is not None:
            found, order = torch.cat([best, found], dim=1).topk(min(k, part.stop), dim=1)
            places = torch.cat([classes, places], dim=1).gather(1, order)
        best, classes = found, places
    return best, classes


def _parts(num_rows: int, dim: int) -> Iterator[slice]:
    """0..num_rows-1 in slices of about ``PART`` numbers: each but the last a multiple of 16 rows, and none of less."""
    step = max(16, PART // dim // 16 * 16)
    starts = [start for start in range(0, num_rows, step) if start == 0 or num_rows - start >= 16]
    return (slice(*ends) for ends in pairwise([*starts, num_rows]))
