"""Texts with many labels as sparse features: the Extreme Classification Repository's files of Amazon-670K and -3M,
Wiki10-31K, WikiLSHTC-325K, Wikipedia-500K, Delicious-200K, AmazonCat-13K, EURLex-4K and the others of its bag-of-words
form (Bhatia et al. 2016, http://manikvarma.org/downloads/XC/XMLRepository.html):

    N D L                                      points, features, labels
    label,label,... feature:value feature:value ...        a line a point, all numbers from 0

A point without labels has a line that starts with a space, or with its features. Only where each line starts is in
memory, 8 bytes a point; a line is read when a batch asks for it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from annsoftmax_ref.checks import check_share
from annsoftmax_ref.datasets.files import FileData, Numbers, Part, check_file, check_index, hold_out

HEADER = re.compile(rb"(\d{1,12})[ \t]+(\d{1,12})[ \t]+(\d{1,12})[ \t]*\r?\n")
NUMBER = rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?"
LINE = re.compile(rb"(\d+(?:,\d+)*)?((?:[ \t]+\d+:" + NUMBER + rb")*)[ \t]*\r?\n?")
LONGEST = 1 << 20  # bytes of a header that is none


class SparseRows(NamedTuple):
    """b points as ``torch.nn.EmbeddingBag`` reads them: point k has ``features[offsets[k] : offsets[k + 1]]``.

    offsets [b + 1] int64, features [nnz] int64 in [0, num_features), values [nnz] float32 (its per_sample_weights).
    """

    offsets: Tensor
    features: Tensor
    values: Tensor


class XMCFile:
    """The points of a file. ``keep_unlabelled``: those without labels, too (default: passed over).

    Raises ValueError, with file and line, for a header that is none and for more or fewer lines than it says.
    """

    draws = True  # a generator for ``batch`` is of use: ``fit`` gives its own

    def __init__(self, path: str | os.PathLike, keep_unlabelled: bool = False):
        self.path = check_file("path", path, "a text of points with labels and features")
        with open(self.path, "rb") as file:
            header = HEADER.fullmatch(file.readline(LONGEST))
            if not header:
                raise ValueError(f"{self.path}, line 1, is not 'points features labels', three whole numbers")
            self.num_points, self.num_features, self.num_classes = map(int, header.groups())
            starts, rows = _find_lines(file, self.num_points, self.path, keep_unlabelled)
        if not self.num_points or not self.num_features or not self.num_classes or not len(rows):
            raise ValueError(f"{self.path} has no point with a label: its header is {header[0].decode().strip()!r}")
        self._starts, self._rows = starts, rows

    def __len__(self) -> int:
        return len(self._rows)

    def line_number(self, row: int) -> int:
        """The line, from 1, of a point of this set."""
        return int(self._rows[row]) + 2

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """labels [l] int64, features [f] int64, values [f] float32. ValueError, with file and line, if it is broken."""
        point = int(self._rows[row])
        with open(self.path, "rb") as file:
            file.seek(self._starts[point])
            line = file.read(int(self._starts[point + 1] - self._starts[point]))
        where = f"{self.path}, line {point + 2},"
        match = LINE.fullmatch(b" " + line if _unlabelled(line) else line)
        if not match:
            raise ValueError(f"{where} is not 'label,label feature:value feature:value'")
        labels = _numbers((match[1] or b"").split(b","), self.num_classes, "label", where)
        pairs = re.split(rb"[ \t:]+", match[2].strip()) if match[2].strip() else []
        features = _numbers(pairs[::2], self.num_features, "feature", where)
        values = np.array([float(v) for v in pairs[1::2]], dtype=np.float32)
        if not np.isfinite(values).all():
            raise ValueError(f"{where} has a value that is not finite")
        return labels, features, values

    def batch(self, index: Tensor, generator: torch.Generator | None = None) -> tuple[SparseRows, Tensor]:
        """index [b] int64 -> the points and one of the labels [b] int64 of each, drawn evenly by ``generator``.

        Without a generator each point's first label is taken, so that the answer does not depend on a global state.
        """
        points, labels = self._read_all(index)
        lengths = torch.tensor([len(own) for own in labels])
        if not lengths.all():
            row = int(lengths.argmin())
            line = self.line_number(int(np.asarray(index)[row]))
            raise ValueError(f"{self.path}, line {line}, has no label to draw; ask for all labels with batch_all")
        draws = torch.zeros(len(labels)) if generator is None else torch.rand(len(labels), generator=generator)
        chosen = torch.minimum((draws.double() * lengths).long(), lengths - 1).tolist()
        picked = [int(own[k]) for own, k in zip(labels, chosen, strict=True)]
        return points, torch.tensor(picked, dtype=torch.int64)

    def batch_all(self, index: Tensor) -> tuple[SparseRows, Tensor, Tensor]:
        """index [b] int64 -> the points, and all labels: label_offsets [b + 1], labels [sum of their numbers] int64."""
        points, labels = self._read_all(index)
        return points, _offsets(labels), _joined(labels, torch.int64)

    def _read_all(self, index) -> tuple[SparseRows, list[np.ndarray]]:
        read = [self.read(row) for row in check_index(index, len(self))]
        labels, features, values = ([one[k] for one in read] for k in range(3))
        points = SparseRows(_offsets(features), _joined(features, torch.int64), _joined(values, torch.float32))
        return points, labels


class XMCPart(Part):
    """Some of a file's points."""

    draws = True

    def batch(self, index: Tensor, generator: torch.Generator | None = None) -> tuple[SparseRows, Tensor]:
        return self.whole.batch(self.rows[check_index(index, len(self))], generator)

    def batch_all(self, index: Tensor) -> tuple[SparseRows, Tensor, Tensor]:
        return self.whole.batch_all(self.rows[check_index(index, len(self))])


@dataclass
class XMCData(FileData):
    """As ``FileData``; a test point is of several classes, and ``test.batch_all`` gives them all."""

    num_features: int
    split: str = "multilabel"


def load_xmc(
    train: str | os.PathLike, test: str | os.PathLike | None = None, held_out: float = 0.1, seed: int = 0
) -> XMCData:
    """Two files, to train and to test on; without the second a share ``held_out`` of the first, drawn by ``seed``,
    is tested on. Raises ValueError for files that are broken or whose headers count other features or labels."""
    check_share("held_out", held_out)
    whole = XMCFile(train)
    if test is None:
        parts = [XMCPart(part.whole, part.rows) for part in hold_out(whole, held_out, seed, whole.path)]
    else:
        parts = [whole, XMCFile(test)]
        for name in ("num_features", "num_classes"):
            ours, theirs = (getattr(part, name) for part in parts)
            if ours != theirs:
                raise ValueError(f"{parts[1].path} has {name} {theirs}; it should be {ours}, as {whole.path} has")
    return XMCData(*parts, whole.num_classes, Numbers(whole.num_classes), num_features=whole.num_features)


def _find_lines(file, count: int, path: str, keep_unlabelled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where the lines start [count + 1], and which of them [n] are points to give."""
    starts, rows = [file.tell()], []
    for line in file:
        if len(starts) > count:
            if line.strip():
                raise ValueError(f"{path} has more lines than the {count} points that its header says")
            continue
        if not line.endswith(b"\n") and len(starts) < count:
            break
        if keep_unlabelled or not _unlabelled(line):
            rows.append(len(starts) - 1)
        starts.append(starts[-1] + len(line))
    if len(starts) != count + 1:
        raise ValueError(
            f"{path} ends in line {len(starts) + 1}; it should have {count} points, as its header says: it is cut short"
        )
    return np.array(starts, dtype=np.int64), np.array(rows, dtype=np.int64)


def _unlabelled(line: bytes) -> bool:
    return line[:1] in (b" ", b"\t", b"\r", b"\n", b"") or b":" in line.split(None, 1)[0]


def _numbers(texts: list[bytes], limit: int, name: str, where: str) -> np.ndarray:
    """Whole numbers below ``limit``, each once."""
    numbers = [int(text) if len(text) < 19 else limit for text in texts if text]
    if numbers and max(numbers) >= limit:
        raise ValueError(f"{where} has the {name} {max(numbers)}; it should be below {limit}, which the header says")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{where} has a {name} twice")
    return np.array(numbers, dtype=np.int64)


def _offsets(parts: list[np.ndarray]) -> Tensor:
    return torch.tensor([0, *(len(part) for part in parts)], dtype=torch.int64).cumsum(0)


def _joined(parts: list[np.ndarray], kind: torch.dtype) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0, dtype=kind)
