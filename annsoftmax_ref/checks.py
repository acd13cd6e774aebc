"""Checks of what users pass in: one clear sentence each, before anything is changed."""

from __future__ import annotations

import numbers

import torch
from torch import Tensor


def check_positive_int(name: str, value: int) -> int:
    """Any integer type will do, NumPy's too; what comes back is an int."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is {value!r}; it should be a whole number of at least 1")
    if value < 1:
        raise ValueError(f"{name} is {value}; it should be at least 1")
    return int(value)


def check_instance(name: str, value, kind: type):
    """TypeError unless value is an object of that class, not the class itself or its name."""
    if not isinstance(value, kind):
        given = f"the class {value.__name__}" if isinstance(value, type) else repr(value)
        raise TypeError(f"{name} is {given}; it should be an instance of {kind.__name__}, made by calling its class")
    return value


def check_kind(dtype: torch.dtype, sparse: bool) -> bool:
    """``sparse``; ValueError where a weight of that dtype cannot have such gradients."""
    if dtype == torch.float8_e4m3fn:
        if not sparse:
            raise ValueError("sparse is False with a weight in 8 bits; it should be True")
        if not hasattr(torch.Tensor, "grad_dtype"):
            raise ValueError(f"dtype is {dtype}, which needs torch 2.10 or later; this is {torch.__version__}")
    return sparse


def check_from_0(name: str, value: int) -> int:
    """value: a whole number of at least 0, of any integer type."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is {value!r}; it should be a whole number of at least 0")
    if value < 0:
        raise ValueError(f"{name} is {value}; it should be at least 0")
    return int(value)


def check_rate(rate: float) -> float:
    if isinstance(rate, bool) or not isinstance(rate, numbers.Real):
        raise TypeError(f"sample_rate is {rate!r}; it should be a number above 0 and at most 1")
    if not 0 < rate <= 1:
        raise ValueError(f"sample_rate is {rate}; it should be above 0 and at most 1")
    return float(rate)


def check_share(name: str, value: float, zero: bool = False) -> float:
    """A number above 0 and below 1; ``zero``: or 0."""
    range_ = "from 0 to below 1" if zero else "above 0 and below 1"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}; it should be a number {range_}")
    if not (0 < value < 1 or (zero and value == 0)):
        raise ValueError(f"{name} is {value}; it should be {range_}")
    return float(value)


def check_new_name(name: str, value: str, known: dict, kind) -> str:
    """value: a text that nothing in ``known`` has but ``kind`` itself, defined once more (a cell that is run again)."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is {value!r}; it should be the text by which {kind.__name__} is known")
    if value in known and known[value].__qualname__ != kind.__qualname__:
        raise ValueError(f"{name} is {value!r}, which is taken; it should be none of {', '.join(known)}")
    return value


def check_embeddings(embeddings: Tensor, embedding_size: int, or_empty: bool = False) -> None:
    """embeddings [B, d], floating point, B >= 1 (``or_empty``: 0), every number finite, no row of zeros."""
    _check_kind_of_embeddings(embeddings, embedding_size, 0 if or_empty else 1)
    if not _sound(embeddings).all():
        _refuse_embeddings(embeddings)


def check_k(k: int, num_classes: int) -> None:
    if not 1 <= check_positive_int("k", k) <= num_classes:
        raise ValueError(f"k is {k}; it should be at most the number of classes, {num_classes}")


def check_labels(labels: Tensor, batch: int, num_classes: int) -> None:
    """labels [B] int64 in [0, num_classes)."""
    _check_kind_of_labels(labels, batch)
    if not _inside(labels, num_classes).all():
        _refuse_labels(labels, num_classes)


def check_batch(
    embeddings: Tensor, labels: Tensor, embedding_size: int, num_classes: int, or_empty: bool = False
) -> None:
    """``check_embeddings`` and ``check_labels``; a GPU is waited for once. or_empty: B may be 0."""
    if or_empty and isinstance(embeddings, Tensor) and embeddings.shape[:1] == (0,):
        _check_kind_of_embeddings(embeddings, embedding_size, least=0)
        return _check_kind_of_labels(labels, 0)
    fine, _ = is_sound(embeddings, labels, embedding_size, num_classes)
    if not fine:
        refuse_batch(embeddings, labels, embedding_size, num_classes)


def is_sound(embeddings: Tensor, labels: Tensor, embedding_size: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Whether the batch has values that a head can take, where it is, and which labels [B] are classes.

    ValueError or TypeError at once for what is of another kind or shape.
    """
    _check_kind_of_embeddings(embeddings, embedding_size)
    _check_kind_of_labels(labels, len(embeddings))
    inside = _inside(labels, num_classes)
    return _sound(embeddings).all() & inside.all(), inside


def refuse_batch(embeddings: Tensor, labels: Tensor, embedding_size: int, num_classes: int) -> None:
    """The sentence on what is wrong with a batch that is not sound."""
    check_embeddings(embeddings, embedding_size)
    check_labels(labels, len(embeddings), num_classes)


def _check_kind_of_embeddings(embeddings: Tensor, embedding_size: int, least: int = 1) -> None:
    if not isinstance(embeddings, Tensor) or not embeddings.is_floating_point():
        kind = embeddings.dtype if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise TypeError(f"embeddings is of type {kind}; it should be a floating-point tensor [B, {embedding_size}]")
    if embeddings.dim() != 2 or embeddings.shape[1] != embedding_size:
        raise ValueError(f"embeddings has shape {list(embeddings.shape)}; it should be [B, {embedding_size}]")
    if embeddings.shape[0] < least:
        raise ValueError("embeddings is an empty batch; it should have at least one row")


def _sound(embeddings: Tensor) -> Tensor:
    """Which rows [B] are of finite numbers, not all of them 0."""
    # A row's largest magnitude is NaN or infinite if one of its numbers is, and 0 if they all are: one
    # pass of reading answers all three questions.
    peak = embeddings.detach().abs().amax(dim=1)
    return torch.isfinite(peak) & (peak > 0)


def _refuse_embeddings(embeddings: Tensor) -> None:
    if not torch.isfinite(embeddings).all():
        raise ValueError("embeddings holds NaN or infinite values; all of them should be finite")
    row = int((~_sound(embeddings)).nonzero()[0])
    raise ValueError(f"embeddings has a row of zeros (row {row}), which has no direction; rows should be non-zero")


def _check_kind_of_labels(labels: Tensor, batch: int) -> None:
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels is of type {kind}; it should be an int64 tensor [{batch}]")
    if labels.shape != (batch,):
        raise ValueError(f"labels has shape {list(labels.shape)}; it should be [{batch}], one label an embedding")


def _inside(labels: Tensor, num_classes: int) -> Tensor:
    return (labels >= 0) & (labels < num_classes)


def _refuse_labels(labels: Tensor, num_classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    wrong = low if low < 0 else high
    raise ValueError(f"labels holds {wrong}; labels should be from 0 to {num_classes - 1} (num_classes - 1)")


def has_overflowed(embeddings: Tensor, embedding_size: int) -> bool:
    """Whether embeddings [B, d] are in float16 and hold NaN or infinity, as a GradScaler expects now and then."""
    fits = isinstance(embeddings, Tensor) and embeddings.dim() == 2 and embeddings.shape[1] == embedding_size
    return fits and embeddings.dtype == torch.float16 and not torch.isfinite(embeddings).all()


def check_classes(classes: Tensor, num_classes: int) -> None:
    """classes [n] int64 in [0, num_classes), n >= 1."""
    if classes.dim() != 1 or classes.dtype != torch.int64 or len(classes) == 0:
        raise ValueError(
            f"classes has shape {list(classes.shape)} and type {classes.dtype}; it should be [n] int64, n >= 1"
        )
    check_labels(classes, len(classes), num_classes)


def check_directions(directions: Tensor, n: int, dim: int) -> None:
    """directions [n, dim], floating point, every number finite, no row of zeros."""
    if not isinstance(directions, Tensor) or not directions.is_floating_point():
        kind = directions.dtype if isinstance(directions, Tensor) else type(directions).__name__
        raise TypeError(f"directions is of type {kind}; it should be a floating-point tensor [{n}, {dim}]")
    if directions.shape != (n, dim):
        raise ValueError(f"directions has shape {list(directions.shape)}; it should be [{n}, {dim}], a row a new class")
    sound = _sound(directions)
    if not sound.all():
        row = int((~sound).nonzero()[0])
        raise ValueError(f"directions has a row (row {row}) that is zero, NaN or infinite; none should be")


def check_ids(name: str, ids: Tensor) -> Tensor:
    """ids: an int64 tensor, or a sequence of whole numbers, which is made into one."""
    if isinstance(ids, (list, tuple, range)) and all(isinstance(i, numbers.Integral) for i in ids):
        ids = torch.tensor([int(i) for i in ids], dtype=torch.int64)
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64:
        kind = ids.dtype if isinstance(ids, Tensor) else type(ids).__name__
        raise TypeError(f"{name} is of type {kind}; it should be an int64 tensor, or a list of whole numbers")
    return ids


def check_ignore_index(ignore_index: int | None) -> int | None:
    if ignore_index is not None and (isinstance(ignore_index, bool) or not isinstance(ignore_index, numbers.Integral)):
        raise TypeError(f"ignore_index is {ignore_index!r}; it should be a whole number or None")
    return ignore_index


def check_class_weights(class_weights: Tensor, num_classes: int, dtype: torch.dtype) -> Tensor:
    """class_weights [num_classes], finite, at least 0, not all 0 -> a copy in dtype, and in float32 at least."""
    if not isinstance(class_weights, Tensor) or not class_weights.is_floating_point():
        kind = class_weights.dtype if isinstance(class_weights, Tensor) else type(class_weights).__name__
        raise TypeError(f"class_weights is of type {kind}; it should be a floating-point tensor [{num_classes}]")
    if class_weights.shape != (num_classes,):
        raise ValueError(f"class_weights has shape {list(class_weights.shape)}; it should be [{num_classes}]")
    if not torch.isfinite(class_weights).all() or (class_weights < 0).any() or not class_weights.any():
        raise ValueError("class_weights holds a number below 0, NaN or infinity, or only zeros; none of this should be")
    return class_weights.detach().clone().to(torch.promote_types(dtype, torch.float32))
