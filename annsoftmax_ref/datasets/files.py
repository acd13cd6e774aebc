"""What the loaders of real data sets share: rows asked for, images decoded, and what a broken file is told."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from annsoftmax_ref.datasets.kinds import LOOKED_AT, mistaken_kind

# What PIL may try: none of these runs another program, as its reader of EPS does.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 100_000_000  # a damaged header must not ask for more memory than there is


@dataclass
class FileData:
    """What ``fit`` reads: ``train`` and ``test`` have ``len`` and ``batch(index)``; a class has a number and a name."""

    train: Any
    test: Any
    num_classes: int
    class_names: list[str]


@dataclass
class Part:
    """The samples ``rows`` [n] int64 of another set."""

    whole: Any
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: Tensor):
        """index [b] int64 into ``rows`` -> what ``whole.batch`` gives."""
        return self.whole.batch(self.rows[check_index(index, len(self))])


class Numbers:
    """The names "0", "1", ... of classes that have none, made when asked for: there may be a hundred million."""

    def __init__(self, count: int):
        self._range = range(count)

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, k: int) -> str:
        return str(self._range[k])


def check_index(index, length: int) -> np.ndarray:
    """index [b], whole numbers in [0, length) -> the same as int64; IndexError names the first one outside."""
    rows = np.asarray(index)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(f"index is of shape {list(rows.shape)} and type {rows.dtype}; it should be [b] whole numbers")
    rows = rows.astype(np.int64)
    outside = (rows < 0) | (rows >= length)
    if outside.any():
        raise IndexError(f"index holds {rows[outside][0]}; it should be from 0 to {length - 1}")
    return rows


def check_file(name: str, path, wanted: str, opened=open) -> str:
    """The path as text; ValueError unless it is an ordinary file (so that no pipe is waited for) and may be ``wanted``,
    which says in words what is read there: not empty, and none of the kinds that a failed download leaves. ``opened``
    opens it to look: one that unpacks lets a packed file pass."""
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise ValueError(f"{name} is {path}, which is not a file; it should be {wanted}")
    with opened(path, "rb") as file:
        kind = mistaken_kind(file.read(LOOKED_AT))
    if kind:
        raise ValueError(f"{name} is {path}, which is {kind}; it should be {wanted}")
    return path


def hold_out(whole, held_out: float, seed: int, where: str) -> tuple[Part, Part]:
    """Train and test parts: a share ``held_out`` of the samples, drawn by ``seed``, is for the test; at least one."""
    if len(whole) < 2:
        raise ValueError(f"{where} holds {len(whole)} samples; it should hold at least 2, to train and to test on")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
    count = min(max(1, int(held_out * len(whole) + 0.5)), len(whole) - 1)
    return Part(whole, order[count:].sort().values), Part(whole, order[:count].sort().values)


def decode_image(content: bytes, where: str, size: int, grey: bool) -> np.ndarray:
    """An encoded image -> uint8 [size, size] or, with colour, [3, size, size]; squeezed to a square, not cropped.

    ``where`` names the file and the place in it, for the ValueError about content that is not a whole image.
    """
    mode = "L" if grey else "RGB"
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it claims {image.width} x {image.height} pixels")
            if image.mode[0] in "IF":  # 16 or 32 bits: a plain conversion would clip them to white
                raise ValueError(f"its pixels are of mode {image.mode}, not of 8 bits a channel")
            image.draft(mode, (2 * size, 2 * size))  # a JPEG is decoded no larger than is of use
            pixels = np.asarray(image.convert(mode).resize((size, size), Image.Resampling.BILINEAR))
    except UnidentifiedImageError as error:
        kind = mistaken_kind(content[:LOOKED_AT]) or "not a whole image"
        raise ValueError(f"{where} is {kind}; it should start as one of {', '.join(FORMATS)} does") from error
    except Exception as error:  # PIL's readers raise nearly every kind there is on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{where} is not a whole image: {reason}") from error
    return pixels if grey else pixels.transpose(2, 0, 1)


def stack_images(images: list[np.ndarray], size: int, grey: bool) -> Tensor:
    """b images -> uint8 [b, size, size] or, with colour, [b, 3, size, size]."""
    shape = (size, size) if grey else (3, size, size)
    return torch.from_numpy(np.stack(images) if images else np.empty((0, *shape), np.uint8))
