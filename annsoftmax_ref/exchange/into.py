"""A head's rows from nn.Linear, NumPy and safetensors; what all ``load_*`` share is ``load_from``."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from annsoftmax_ref.checks import check_instance
from annsoftmax_ref.every_row import parts
from annsoftmax_ref.exchange.packages import optional
from annsoftmax_ref.head import SoftmaxHead
from annsoftmax_ref.rows import widened


class Source(NamedTuple):
    """Rows that are to be loaded: their name in error messages, shape, and read(first, last) -> [last - first, d]."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[int, int], Tensor]
    bias: Tensor | None = None


def load_linear(head: SoftmaxHead, linear: nn.Linear) -> None:
    """Write the rows of linear.weight [N, d], and its bias [N] if it has one, into ``head``.

    linear(F.normalize(x)) are then the head's logits if the rows had the length ``head.objective.scale``; of other
    lengths only the direction is kept in the logits. ValueError for another shape, rows that are zero or not finite,
    and a bias where the head has none.
    """

    def opened() -> Source:
        weight = check_instance("linear", linear, nn.Linear).weight.detach()
        bias = None if linear.bias is None else linear.bias.detach()
        return Source("linear.weight", tuple(weight.shape), lambda first, last: weight[first:last], bias)

    load_from(head, opened)


def load_numpy(head: SoftmaxHead, array: np.ndarray | str | os.PathLike) -> None:
    """Write array [N, d] of floating-point numbers, an array, a memory map or the path of a .npy file, into ``head``.

    It is read in parts of some 64 MB; no second copy of the whole is made. ValueError or TypeError for a file that is
    missing or broken, another shape or kind, and rows that are zero or not finite.
    """

    def opened() -> Source:
        values = _mapped(array) if isinstance(array, (str, os.PathLike)) else check_instance("array", array, np.ndarray)
        if values.dtype.kind != "f":
            raise TypeError(f"array is of type {values.dtype}; it should hold floating-point numbers")
        native = values.dtype.newbyteorder("=")
        return Source("array", values.shape, lambda first, last: torch.from_numpy(values[first:last].astype(native)))

    load_from(head, opened)


def load_safetensors(head: SoftmaxHead, path: str | os.PathLike) -> None:
    """Write "weight" [N, d], and "bias" [N] if there is one, of a safetensors file into ``head``, in parts.

    What ``to_safetensors`` of a head of the same dtype wrote comes back to the last bit. ImportError without the
    package; ValueError for a file that is missing or broken, other shapes, rows that are zero or not finite, and a
    bias where the head has none.
    """

    def opened() -> Source:
        library = optional("safetensors")
        with broken_is_refused("path", path, "a safetensors file with weight [N, d]", library.SafetensorError):
            file = library.safe_open(os.fspath(path), framework="pt")
            rows = file.get_slice("weight")
            bias = file.get_tensor("bias") if "bias" in file.keys() else None  # noqa: SIM118, it is no dict
            return Source("weight", tuple(rows.get_shape()), lambda first, last: rows[first:last], bias)

    load_from(head, opened)


@torch.no_grad()
def load_from(head: SoftmaxHead, opened: Callable[[], Source]) -> None:
    """Look at all rows that are to be this process's, then write them."""
    first = 0 if check_instance("head", head, SoftmaxHead).shards is None else head.shards.first
    with _refused_by_all(head):
        source = opened()
        _check_shapes(head, source)
        for part in parts(*head.weight.shape):
            _check_rows(source.name, _kept(head, source, part, first), first + part.start)
    for part in parts(*head.weight.shape):
        head.weight[part].copy_(_kept(head, source, part, first))
    if head.bias is not None:
        head.bias.copy_(0 if source.bias is None else source.bias[first : first + len(head.bias)])


def _kept(head: SoftmaxHead, source: Source, part: slice, first: int) -> Tensor:
    """The rows as the head will hold them."""
    rows, kind = source.read(first + part.start, first + part.stop), head.weight.dtype
    if kind.itemsize == 1 and rows.dtype != kind:  # 8 bits have few exponents: lengths of their own do not fit
        rows = F.normalize(rows.float(), dim=1)
    return rows.to(kind)


def _check_shapes(head: SoftmaxHead, source: Source) -> None:
    wanted = (head.num_classes, head.embedding_size)
    if tuple(source.shape) != wanted:
        raise ValueError(f"{source.name} has shape {list(source.shape)}; it should be {list(wanted)}, as the head's")
    if source.bias is None:
        return
    if head.bias is None:
        raise ValueError(f"{source.name} comes with a bias, and head has none; make the head with bias=True")
    if source.bias.shape != wanted[:1] or not source.bias.isfinite().all():
        raise ValueError(f"bias has shape {list(source.bias.shape)}; it should be [{wanted[0]}], every number finite")


def _check_rows(name: str, rows: Tensor, first: int) -> None:
    """rows [n, d], those of class ``first`` on: each has a direction, as the head would hold it."""
    wide = widened(rows)
    wrong = ~(wide.isfinite().all(dim=1) & (wide != 0).any(dim=1))
    if wrong.any():
        row = first + int(wrong.nonzero()[0])
        raise ValueError(f"{name} has a row (row {row}) that is zero, NaN or infinite in {rows.dtype}; none should be")


@contextlib.contextmanager
def _refused_by_all(head: SoftmaxHead) -> Iterator[None]:
    """Where classes are split, an error of one process is raised on all."""
    error = None
    try:
        yield
    except Exception as found:  # raised below, once the others know
        error = found
    if head.shards is not None:
        failures = head.shards.total(torch.tensor(float(error is not None), device=head.weight.device), "loading")
        if error is None and failures > 0:
            error = ValueError("weights were refused by another process, which says why; nothing has been changed")
    if error is not None:
        raise error


@contextlib.contextmanager
def broken_is_refused(name: str, path: str | os.PathLike, wanted: str, *kinds: type[Exception]) -> Iterator[None]:
    """ValueError where a file is not there, or is not what is wanted."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError, *kinds) as error:
        state = "broken or something else" if Path(path).is_file() else "not a file that is there"
        raise ValueError(f"{name} is {os.fspath(path)}, which is {state}; it should be {wanted}") from error


def _mapped(path: str | os.PathLike) -> np.ndarray:
    with broken_is_refused("array", path, "a whole .npy file"):
        return np.lib.format.open_memmap(path, mode="r")
