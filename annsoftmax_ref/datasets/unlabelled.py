"""Inputs to predict on, without labels: rows of a file of features, or the images in a folder, at any depth.

Each has ``len``, ``batch(rows) -> (inputs, rows)``, the rows that could be read with what a backbone takes of them, and
``name(row) -> (file, row)``; as with labels, nothing is read before a batch asks for it.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from annsoftmax_ref.datasets.files import check_file, decode_image, stack_images
from annsoftmax_ref.datasets.image_folder import ENDINGS, images_below, read_image
from annsoftmax_ref.datasets.memmap import map_features
from annsoftmax_ref.datasets.skipping import Skipped


class UnlabelledFeatures:
    """The rows of a .npy file [n, width] of float16 or float32, mapped. ValueError for any other file, and for a row
    that is not finite."""

    def __init__(self, path: str | os.PathLike, width: int):
        self.path = check_file("input", path, f"features [n, {width}], .npy")
        if not self.path.endswith(".npy"):
            raise ValueError(f"input is {self.path}; it should be a .npy file, of features [n, {width}]")
        self._features = map_features(self.path, None, None, 0)
        if self._features.shape[1] != width:
            found = list(self._features.shape)
            raise ValueError(f"input is {self.path}, an array {found}; it should be [n, {width}], as in training")

    def __len__(self) -> int:
        return len(self._features)

    def batch(self, rows: Tensor) -> tuple[Tensor, list[int]]:
        """rows [b] int64 -> features [b, width] float32, and the same rows."""
        features = self._features[rows.numpy()].astype(np.float32)
        broken = ~np.isfinite(features).all(axis=1)
        if broken.any():
            raise ValueError(f"{self.path}, row {int(rows[broken.argmax()])}, has a value that is not finite")
        return torch.from_numpy(features), rows.tolist()

    def name(self, row: int) -> tuple[str, int]:
        return self.path, row


class UnlabelledImages:
    """The images below a folder, or one image file, in the order of their names. size, grey: as in training.

    skip: so many may be broken (default: a hundredth, at least 10); each is named in the log and left out. ValueError
    for more than that, and for a folder without images.
    """

    def __init__(self, path: str | os.PathLike, size: int, grey: bool, skip: int | None = None):
        self.root, self.size, self.grey = Path(path), size, grey
        if self.root.is_dir():
            self._files = [self.root / name for name in images_below(str(self.root), "")]
        else:
            self._files = [Path(check_file("input", path, "an image, a folder of images or a .npy file"))]
        if not self._files:
            raise ValueError(f"input is {path}, which holds no images ({', '.join(ENDINGS)}); name another folder")
        self.skipped = Skipped(skip, len(self._files), self.root)

    def __len__(self) -> int:
        return len(self._files)

    def batch(self, rows: Tensor) -> tuple[Tensor, list[int]]:
        """rows [b] int64 -> images uint8 [c, size, size] or, in colour, [c, 3, size, size], and the c whole ones."""
        images, whole = [], []
        for row in rows.tolist():
            path = self._files[row]
            try:
                images.append(decode_image(read_image(path), str(path), self.size, self.grey))
                whole.append(row)
            except ValueError as error:
                self.skipped.add(error)
        return stack_images(images, self.size, self.grey), whole

    def name(self, row: int) -> tuple[str, int]:
        return str(self._files[row]), 0
