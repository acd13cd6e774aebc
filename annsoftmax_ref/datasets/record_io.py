"""Faces as InsightFace packs them, ``train.rec`` with ``train.idx``: MS1MV2, MS1MV3, Glint360K, WebFace4M to 42M,
CASIA-WebFace, VGGFace2, Asian-Celeb; and other sets that MXNet's im2rec packed.

The format (dmlc-core ``recordio.h`` and MXNet ``python/mxnet/recordio.py``; all little-endian):

    record    0xced7230a | word | content | zeros up to 4 bytes; word: 3 bits of flag, 29 bits of length
    flag      0 whole; else the content held the magic number at a multiple of 4 bytes, was cut there and the number
              left out: 1 the first part, 2 one between, 3 the last
    content   uint32 count | float32 label | uint64 id | uint64 id2 | ``count`` float32 labels | the encoded image;
              with count > 0 these labels stand for the one before
    .idx      a line "key <tab> offset" for each record
    .lst      a line "key <tab> label <tab> ... path" for each image (MXNet's im2rec); used to check labels
    property  InsightFace: "classes,height,width"

InsightFace's record 0 is a header of labels (n, m): keys 1 .. n - 1 are images, n .. m - 1 tell which images are of
which identity, and are not needed here. Other packers' m is the number of classes, below n, or n again. Only keys and
offsets are in memory, 40 bytes a record. The format has no checksum; every check that it allows is made: each record
must end where the next one starts, so the .idx has to list them all.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from annsoftmax_ref.checks import check_positive_int, check_share
from annsoftmax_ref.datasets.files import (
    FileData,
    check_file,
    check_index,
    decode_image,
    hold_out,
    stack_images,
)

MAGIC = struct.pack("<I", 0xCED7230A)
WORDS = struct.Struct("<4sI")
HEADER = struct.Struct("<IfQQ")
MAX_CLASSES = 2**24  # a float32 holds no larger labels without gaps


class RecordFile:
    """The records of ``path`` by key. ``keys`` and ``offsets`` [n] int64 are in the order of the file."""

    def __init__(self, path: str | os.PathLike, idx_path: str | os.PathLike | None = None):
        self.path = check_file("path", path, "a .rec file of records")
        idx_path = idx_path or Path(path).with_suffix(".idx")
        self.idx_path = check_file("idx_path", idx_path, "a .idx file, a line a record")
        with open(self.path, "rb") as file:
            start = file.read(len(MAGIC))
        if start != MAGIC:
            raise ValueError(f"{self.path} starts with the bytes {start.hex()}; a .rec file should with {MAGIC.hex()}")
        self.keys, self.offsets = _read_idx(self.idx_path)
        size = os.path.getsize(self.path)
        if self.offsets[-1] + WORDS.size > size:
            raise ValueError(
                f"{self.idx_path} goes to offset {self.offsets[-1]}, which should lie within the {size} bytes of "
                f"{self.path}: one of the files is cut short or of another set"
            )
        if self.offsets[0] != 0:
            raise ValueError(
                f"{self.idx_path} starts at offset {self.offsets[0]} and leaves out what stands before it; "
                f"it should list all records of {self.path}, the one at 0 included"
            )
        self._ends = np.append(self.offsets[1:], size)
        self._order = np.argsort(self.keys, kind="stable")
        self.sorted_keys = self.keys[self._order]

    def __contains__(self, key: int) -> bool:
        at = np.searchsorted(self.sorted_keys, key)
        return bool(at < len(self.sorted_keys) and self.sorted_keys[at] == key)

    def where(self, key: int) -> str:
        """For messages: the file, the record and its place."""
        return f"{self.path}, record {key} at byte {self.offsets[self._row(key)]},"

    def read(self, key: int) -> tuple[np.ndarray, bytes]:
        """Labels [count or 1] float32 and the rest of the content. ValueError, with file and place, if it is broken."""
        row, where = self._row(key), self.where(key)
        start, end = int(self.offsets[row]), int(self._ends[row])
        with open(self.path, "rb") as file:
            file.seek(start)
            content = _join_parts(file.read(end - start), where, self.idx_path)
        if len(content) < HEADER.size:
            raise ValueError(f"{where} has {len(content)} bytes; it should have the {HEADER.size} of a header at least")
        count, label, *_ = HEADER.unpack_from(content)
        body = HEADER.size + 4 * count
        if body > len(content):
            raise ValueError(f"{where} claims {count} labels, more than its {len(content)} bytes can hold")
        labels = np.frombuffer(content, "<f4", count, HEADER.size) if count else np.array([label], np.float32)
        return labels, content[body:]

    def _row(self, key: int) -> int:
        if key not in self:
            raise ValueError(f"{self.idx_path} has no record {key}")
        return int(self._order[np.searchsorted(self.sorted_keys, key)])


class RecordSet:
    """The images of a record file: ``len`` and ``batch(index)``, in the order of their keys.

    num_classes: default, what the file ``property`` beside it says, else record 0, else ``lst_path``.
    lst_path: a list of MXNet's form; each record's label must then be the one that is listed.
    Raises ValueError for files that are missing, broken or of different sets.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        idx_path: str | os.PathLike | None = None,
        lst_path: str | os.PathLike | None = None,
        num_classes: int | None = None,
        size: int = 32,
        grey: bool = True,
    ):
        self.size, self.grey = check_positive_int("size", size), grey
        self.records = RecordFile(path, idx_path)
        self.keys, told = _image_keys(self.records)
        self.listed = None if lst_path is None else _read_lst(lst_path, self.keys)
        if num_classes is None:
            num_classes = _read_property(Path(path).parent / "property") or told
        if num_classes is None and self.listed is not None:
            num_classes = int(self.listed.max()) + 1
        if num_classes is None:
            raise ValueError(f"num_classes is None, and neither a file property nor record 0 of {path} tells it")
        if not 2 <= num_classes <= MAX_CLASSES:
            raise ValueError(f"num_classes is {num_classes} for {path}; it should be from 2 to {MAX_CLASSES}")
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.keys)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """index [b] int64 -> images uint8 [b, size, size], or [b, 3, size, size] in colour, and labels [b] int64."""
        images, labels = [], []
        for row in check_index(index, len(self)):
            key = int(self.keys[row])
            found, content = self.records.read(key)
            where = self.records.where(key)
            label = float(found[0])
            if not 0 <= label < self.num_classes or label != int(label):
                raise ValueError(f"{where} has the label {label}; it should be a whole number below {self.num_classes}")
            if self.listed is not None and label != self.listed[row]:
                raise ValueError(f"{where} has the label {label:.0f}, but {self.listed[row]} in the list")
            labels.append(int(label))
            images.append(decode_image(content, where, self.size, self.grey))
        return stack_images(images, self.size, self.grey), torch.tensor(labels, dtype=torch.int64)


def load_record_io(
    path: str | os.PathLike,
    num_classes: int | None = None,
    size: int = 32,
    grey: bool = True,
    held_out: float = 0.01,
    seed: int = 0,
) -> FileData:
    """A .rec file, or a folder with ``train.rec``, as train and test: a share ``held_out`` of the images, drawn by
    ``seed``, is tested on. A list of the same name (.lst) is not read; for one, and for no test, see ``RecordSet``.
    """
    check_share("held_out", held_out)
    path = Path(path) / "train.rec" if Path(path).is_dir() else Path(path)
    whole = RecordSet(path, num_classes=num_classes, size=size, grey=grey)
    train, test = hold_out(whole, held_out, seed, str(path))
    return FileData(train, test, whole.num_classes, [str(k) for k in range(whole.num_classes)])


def _join_parts(stored: bytes, where: str, idx_path: str) -> bytes:
    """The content of one record out of all its bytes in the file, header words and padding included."""
    parts, at = [], 0
    while True:
        if at + WORDS.size > len(stored):
            raise ValueError(f"{where} is cut short: {len(stored)} bytes hold no more of its parts")
        magic, word = WORDS.unpack_from(stored, at)
        flag, length = word >> 29, word & (1 << 29) - 1
        if magic != MAGIC:
            raise ValueError(f"{where} has {magic.hex()} where the magic number {MAGIC.hex()} should be")
        if flag not in ((2, 3) if parts else (0, 1)):
            raise ValueError(f"{where} has a part of flag {flag} that does not go on from the one before")
        if flag in (1, 2) and length % 4:
            raise ValueError(f"{where} has a part of {length} bytes, not a multiple of 4, that is not its last")
        at += WORDS.size
        if at + length > len(stored):
            raise ValueError(f"{where} claims {length} bytes and has {len(stored) - at}")
        parts.append(stored[at : at + length])
        at += length + -length % 4
        if flag in (0, 3):
            break
    if stored[at : at + len(MAGIC)] == MAGIC:
        raise ValueError(f"{where} is followed by a record that {idx_path} leaves out; it should list all records")
    if at != len(stored) or any(stored[at - (-length % 4) : at]):
        raise ValueError(f"{where} does not end, padded with zeros to 4 bytes, where the next record starts")
    return MAGIC.join(parts)


def _read_idx(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Keys and offsets [n] int64, in the order of the offsets."""
    table = _read_numbers(path, (0, 1), np.int64)
    table = table[np.argsort(table[:, 1], kind="stable")]
    keys, offsets = table[:, 0].copy(), table[:, 1].copy()
    if (keys < 0).any() or len(np.unique(keys)) < len(keys):
        raise ValueError(f"{path} has a key that is negative or there twice; each record should have one of its own")
    wrong = (offsets % 4 != 0) | (np.diff(offsets, prepend=-1) <= 0)
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{path} puts record {keys[row]} at byte {offsets[row]}; offsets should be multiples of 4, each once"
        )
    return keys, offsets


def _read_lst(path: str | os.PathLike, keys: np.ndarray) -> np.ndarray:
    """The listed labels [n] int64 of ``keys`` [n]."""
    path = check_file("lst_path", path, "a .lst file, a line an image")
    table = _read_numbers(path, (0, 1), np.float64)
    order = np.argsort(table[:, 0], kind="stable")
    listed, labels = table[order, 0], table[order, 1]
    if not np.array_equal(listed, keys):
        raise ValueError(f"{path} lists {len(listed)} keys that are not the {len(keys)} of the images in the .idx file")
    if (labels < 0).any() or (labels >= MAX_CLASSES).any() or (labels % 1 != 0).any():
        raise ValueError(f"{path} has a label that is not a whole number from 0 to {MAX_CLASSES - 1}")
    return labels.astype(np.int64)


def _read_numbers(path: str, columns: tuple[int, ...], kind) -> np.ndarray:
    """Columns of a file of lines with tabs -> [n, columns], n > 0."""
    try:
        with open(path, encoding="utf-8") as file:
            table = np.loadtxt(file, kind, comments=None, delimiter="\t", usecols=columns, ndmin=2)
        with open(path, "rb") as file:  # a number that lost its last digits is still one: the line's end tells
            file.seek(-1, os.SEEK_END)
            whole = file.read() == b"\n"
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} is not lines of numbers with tabs: {str(error).splitlines()[0]}") from error
    if not whole or not len(table):
        raise ValueError(f"{path} ends after {len(table)} lines without a line's end: it is cut short")
    return table


def _read_property(path: Path) -> int | None:
    """The number of classes, the first of the numbers with commas; None if there is no such file."""
    if not path.is_file():
        return None
    wanted = "numbers with commas, the number of classes first"
    text = Path(check_file("property", path, wanted)).read_bytes()[:200]
    if not re.fullmatch(rb"\s*\d{1,9}(\s*,\s*\d{1,9})*\s*", text):
        raise ValueError(f"{path} holds {text[:40]!r}; it should be {wanted}")
    return int(text.split(b",")[0])


def _image_keys(records: RecordFile) -> tuple[np.ndarray, int | None]:
    """The keys [n] of the images in rising order, and the number of identities if record 0 tells it."""
    keys = records.sorted_keys
    if 0 not in records:
        return keys, None
    labels, content = records.read(0)
    if content:  # an image like the others: packed by im2rec, not by InsightFace
        return keys, None
    end, last = float(labels[0]), float(labels[-1])
    if not (2 <= end < 2**40 and 0 <= last < 2**40) or end % 1 or last % 1:
        raise ValueError(f"{records.where(0)} is a header of the labels {labels}; they should count images and classes")
    # Above 2^24 a float32 knows the number only to 2 or 4: the few keys that may be no images are left out.
    blur = int(np.spacing(labels[0])) if end >= 2**24 else 0
    images = keys[(keys >= 1) & (keys < end - blur)]
    if len(images) != int(end) - blur - 1:
        raise ValueError(
            f"{records.idx_path} has {len(images)} of the {int(end) - blur - 1} images that record 0 of "
            f"{records.path} tells of; one of the files is cut short or of another set"
        )
    told = int(last - end if last > end else last)
    return images, told if len(labels) > 1 and last != end and last < 2**24 else None
