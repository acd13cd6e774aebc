"""``annsoftmax bench changes``: what it takes to add classes to a head in training, and to remove them again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

import torch
from torch import Tensor

from annsoftmax_ref import ANNSoftmax, RowSGD
from annsoftmax_ref.experiments.reports import grid
from annsoftmax_ref.row_parameter import unwatched

BATCH, STEPS = 256, 3  # of training, so that there are lists, momentum, and rows that lag


def bench_changes(sizes: list[int], add: int, dim: int = 128, rounds: int = 5, seed: int = 0) -> Iterator[dict]:
    """A row for each number of classes: {"classes", "add", "dim", "add_ms", "remove_ms", "copy_ms", "copied_mb",
    "unchanged"}, medians over rounds.

    Of an ANN head after some steps of RowSGD with momentum. copy_ms: to copy all tensors that have a row or a slot for
    each class, copied_mb, and do nothing else, which a change cannot be faster than. unchanged: whether weights,
    momentum, lists and codes are the same afterwards, to the last bit, rows that lag as they lag.
    """
    for classes in sizes:
        head, optimizer = _trained(classes, dim, seed)
        yield {"classes": classes, "add": add, "dim": dim} | _changed(head, optimizer, add, rounds)


def _changed(head: ANNSoftmax, optimizer: RowSGD, add: int, rounds: int) -> dict:
    add_ms, remove_ms, copy_ms, unchanged = [], [], [], True
    for _ in range(rounds):
        slots, before = head.selector.index.kept_tensors(), None
        start = time.perf_counter()
        before = [tensor.clone() for tensor in (*_rows(head, optimizer), *slots)]
        copy_ms.append((time.perf_counter() - start) * 1e3)
        copied_mb = sum(tensor.nbytes for tensor in before) / 1e6
        del before[-len(slots) :]  # who comes and goes leaves holes there
        start = time.perf_counter()
        ids = head.add_classes(add)
        add_ms.append((time.perf_counter() - start) * 1e3)
        start = time.perf_counter()
        head.remove_classes(ids)
        remove_ms.append((time.perf_counter() - start) * 1e3)
        unchanged &= all(map(torch.equal, before, _rows(head, optimizer)))
    times = {"add_ms": median(add_ms), "remove_ms": median(remove_ms), "copy_ms": median(copy_ms)}
    return times | {"copied_mb": copied_mb, "unchanged": unchanged}


def _trained(classes: int, dim: int, seed: int) -> tuple[ANNSoftmax, RowSGD]:
    head = ANNSoftmax(classes, dim, sample_rate=min(1.0, 0.01 + BATCH / classes), seed=seed)
    optimizer, generator = RowSGD(head.parameters(), lr=0.1, momentum=0.9), torch.Generator().manual_seed(seed)
    for _ in range(STEPS):
        x = torch.randn(BATCH, dim, generator=generator)
        head(x, torch.randint(classes, (BATCH,), generator=generator)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return head, optimizer


def _rows(head: ANNSoftmax, optimizer: RowSGD) -> list[Tensor]:
    """All that has a row for each class, as it stands."""
    index = head.selector.index
    with unwatched():
        return [head.weight.detach(), *optimizer.kept_tensors(), index.codes, index.assignment, index.written]


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table."""
    titles = ["classes", "come and go", "added in, ms", "removed in, ms", "a copy alone, ms", "MB copied", "all others"]
    return grid(
        titles,
        [
            [
                f"{r['classes']:,}",
                f"{r['add']:,}",
                f"{r['add_ms']:.0f}",
                f"{r['remove_ms']:.0f}",
                f"{r['copy_ms']:.0f}",
                f"{r['copied_mb']:,.0f}",
                "the same bits" if r["unchanged"] else "CHANGED",
            ]
            for r in rows
        ],
    )
