"""Features that a network made before, in files of any length: .npy, or raw float16 or float32, with int64 labels.

What embeddings of a set of faces, products or texts are kept in, of Glint360K or WebFace260M for one, so that a head
alone can be trained on billions of rows. LAION-400M gives its CLIP embeddings as .npy of float16 (labels are your own);
the .fbin files of Deep1B and other billion-scale search sets are raw float32 after two counts of 4 bytes: ``skip=8``.

    .npy     NumPy's own format, version 1 to 3 (numpy.lib.format), of [n, d] features or [n] labels, little-endian
    other    raw little-endian numbers, row after row, after ``skip`` bytes

The files are mapped, not read: a batch touches the pages of its rows and no others, so billions of rows take no memory.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor

from annsoftmax_ref.checks import check_from_0, check_positive_int, check_share
from annsoftmax_ref.datasets.files import FileData, Numbers, check_file, check_index

FEATURE_TYPES = ("float16", "float32")


class MappedFeatures:
    """features [n, d] and labels [n]; ``len`` and ``batch(index)``.

    num_classes: has to be given, since labels are looked at only when a batch asks for them.
    width, dtype, skip: of a raw feature file: d, "float16" or "float32", and the bytes before the first row; a .npy
        file tells the first two itself, and they are checked if they are given.
    start, stop: the rows to take, default all.
    Raises ValueError for files that are missing, broken, cut short, too long or of different lengths.
    """

    def __init__(
        self,
        features: str | os.PathLike,
        labels: str | os.PathLike,
        num_classes: int,
        width: int | None = None,
        dtype: str | None = None,
        skip: int = 0,
        start: int = 0,
        stop: int | None = None,
    ):
        self.num_classes = check_positive_int("num_classes", num_classes)
        self.path = check_file("features", features, "features [n, d], .npy or raw")
        self.labels_path = check_file("labels", labels, "labels [n], .npy or raw")
        if dtype not in (None, *FEATURE_TYPES):
            raise ValueError(f"dtype is {dtype!r}; it should be float16 or float32")
        self._features = map_features(self.path, width, dtype, skip)
        self._labels = _map_npy(self.labels_path, ("int64",), 1) if _is_npy(labels) else _map_raw(self.labels_path)
        if len(self._features) != len(self._labels):
            raise ValueError(
                f"{self.path} has {len(self._features)} rows and {self.labels_path} {len(self._labels)} labels; "
                "it should be a label a row"
            )
        stop = len(self._labels) if stop is None else stop
        if not 0 <= start < stop <= len(self._labels):
            raise ValueError(f"rows {start} to {stop} of {self.path} are asked for, which has {len(self._labels)}")
        self.start, self.stop = start, stop
        self._sizes = {path: os.path.getsize(path) for path in (self.path, self.labels_path)}

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def width(self) -> int:
        """d, the numbers a row."""
        return self._features.shape[1]

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """index [b] int64 -> features [b, d] float32, labels [b] int64, copied out of the files.

        Raises ValueError, with file and row, for a label out of range and a feature that is not finite.
        """
        rows = check_index(index, len(self)) + self.start
        for path, size in self._sizes.items():  # to read what a mapped file no longer has ends the process
            if not os.path.isfile(path) or os.path.getsize(path) != size:
                raise ValueError(f"{path} had {size} bytes when it was opened and has changed since; open it anew")
        features, labels = self._features[rows].astype(np.float32), np.array(self._labels[rows], dtype=np.int64)
        wrong = (labels < 0) | (labels >= self.num_classes)
        if wrong.any():
            raise ValueError(
                f"{self.labels_path}, row {rows[wrong][0]}, has the label {labels[wrong][0]}; "
                f"it should be from 0 to {self.num_classes - 1}"
            )
        broken = ~np.isfinite(features).all(axis=1)
        if broken.any():
            raise ValueError(f"{self.path}, row {rows[broken][0]}, has a value that is not finite")
        return torch.from_numpy(features), torch.from_numpy(labels)


def load_memmap(
    features: str | os.PathLike,
    labels: str | os.PathLike,
    num_classes: int,
    width: int | None = None,
    dtype: str | None = None,
    skip: int = 0,
    held_out: float = 0.01,
) -> FileData:
    """Train and test of mapped files: the last rows, a share ``held_out``, are for the test.

    The rows are to be in no order; a random choice among billions would need a table of them in memory.
    """
    check_share("held_out", held_out)
    settings = (features, labels, num_classes, width, dtype, skip)
    count = len(MappedFeatures(*settings))
    if count < 2:
        raise ValueError(f"{os.fspath(features)} has {count} rows; it should have at least 2, to train and to test on")
    cut = count - min(max(1, int(held_out * count + 0.5)), count - 1)
    train, test = MappedFeatures(*settings, stop=cut), MappedFeatures(*settings, start=cut)
    return FileData(train, test, num_classes, Numbers(num_classes))


def _is_npy(path: str | os.PathLike) -> bool:
    return os.fspath(path).endswith(".npy")


def map_features(path: str, width: int | None, dtype: str | None, skip: int) -> np.ndarray:
    """features [n, d] of a file, mapped; the arguments are those of ``MappedFeatures``, which tells what it raises."""
    if not _is_npy(path):
        if width is None or dtype is None:
            raise ValueError(f"{path} is raw, so width and dtype have to be given; they are {width} and {dtype}")
        return _map_raw(path, check_positive_int("width", width), dtype, skip)
    mapped = _map_npy(path, FEATURE_TYPES if dtype is None else (dtype,), 2)
    if skip or width not in (None, mapped.shape[1]):
        raise ValueError(f"{path} has {mapped.shape[1]} numbers a row and nothing to skip, not {width} and {skip}")
    return mapped


def _map_npy(path: str, kinds: tuple[str, ...], dims: int) -> np.ndarray:
    """The array of a .npy file, mapped; its length must be to the byte what its header says."""
    try:
        mapped = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged header is a damaged Python expression, and raises as such
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a whole .npy file: {reason}") from error
    if mapped.dtype.name not in kinds or not mapped.dtype.isnative or mapped.ndim != dims or not mapped.size:
        raise ValueError(
            f"{path} is an array {list(mapped.shape)} of {mapped.dtype.str}; it should be little-endian "
            f"{' or '.join(kinds)} [{'n, d' if dims == 2 else 'n'}]"
        )
    if os.path.getsize(path) != mapped.offset + mapped.nbytes:
        raise ValueError(f"{path} has {os.path.getsize(path)} bytes; its header says {mapped.offset + mapped.nbytes}")
    return mapped


def _map_raw(path: str, width: int | None = None, dtype: str = "int64", skip: int = 0) -> np.ndarray:
    """Rows of ``width`` numbers, or single numbers without one; the file must hold a whole number of them."""
    size, row = os.path.getsize(path) - check_from_0("skip", skip), np.dtype(dtype).itemsize * (width or 1)
    if size <= 0 or size % row:
        raise ValueError(
            f"{path} has {size} bytes after the first {skip}, which is not a whole number of rows of {row} bytes: "
            f"it ends within row {max(size, 0) // row}"
        )
    shape = (size // row,) if width is None else (size // row, width)
    return np.memmap(path, np.dtype(dtype).newbyteorder("<"), mode="r", offset=skip, shape=shape)
