"""Cross entropy over all classes as libraries have it: product and loss in one, for ``annsoftmax bench step``."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# queries [B, d], rows [N, d], labels [B] -> mean loss, a scalar
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


class Library(NamedTuple):
    """make() -> its loss. why_not: what is missing for it to run on tensors on ``device``, or None."""

    make: Callable[[], Loss]
    why_not: Callable[[torch.device], str | None]


def _torch(chunked: bool) -> Loss:
    options = {"options": torch.nn.LinearCrossEntropyOptions()} if chunked else {}
    return lambda queries, rows, labels: F.linear_cross_entropy(queries, rows, labels, **options)


def _liger() -> Loss:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss()
    return lambda queries, rows, labels: loss(rows, queries, labels)


def _cut_cross_entropy() -> Loss:
    from cut_cross_entropy import linear_cross_entropy

    # It computes in the kind of its arguments, and takes none but half precision.
    return lambda queries, rows, labels: linear_cross_entropy(queries.bfloat16(), rows.bfloat16(), labels)


def _needs_torch(device: torch.device) -> str | None:
    return None if hasattr(F, "linear_cross_entropy") else f"torch 2.13 or later (this is {torch.__version__})"


def _needs(package: str) -> Callable[[torch.device], str | None]:
    def why_not(device: torch.device) -> str | None:
        if find_spec(package) is None:
            return f"the package {package}"
        return None if device.type == "cuda" else "a GPU"

    return why_not


LIBRARIES = {
    "linear_cross_entropy": Library(lambda: _torch(chunked=False), _needs_torch),
    "linear_cross_entropy_chunked": Library(lambda: _torch(chunked=True), _needs_torch),
    "liger": Library(_liger, _needs("liger_kernel")),
    "cut_cross_entropy": Library(_cut_cross_entropy, _needs("cut_cross_entropy")),
}


def library_loss(name: str, device: torch.device) -> Loss:
    """The loss of that name, a key of ``LIBRARIES``. ValueError if it cannot be had."""
    missing = LIBRARIES[name].why_not(device)
    if missing is not None:
        raise ValueError(f"head is {name!r}, which needs {missing}; leave it out of --heads")
    return LIBRARIES[name].make()
