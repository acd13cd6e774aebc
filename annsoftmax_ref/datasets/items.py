"""Sessions: what users took up one after another, and the next item as the class of all that came before it.

A log of events is a text with a line an event, of which three columns are read: user or session, item, time. So are
MovieLens' ratings.csv, u.data and ratings.dat (Harper & Konstan 2015), the clicks of YooChoose (RecSys Challenge 2015)
and Diginetica (CIKM Cup 2016), and most exports of a shop. The separator is the first of tab, ``::``, ``;`` and ``,``
that the first line has; that line may be a header; times are numbers, or dates as ISO 8601 writes them. A file packed
by gzip is read as it is.

A user's last item is tested on (leave-one-out), every other one but the first is trained on. All events stay in memory,
24 bytes each.
"""

from __future__ import annotations

import csv
import gzip
import os
import zlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.datasets.files import FileData, check_file, check_index

WANTED = "a text with user, item and time"
SEPARATORS = ("\t", "::", ";", ",")
PACKED, BROKEN = b"\x1f\x8b", (EOFError, gzip.BadGzipFile, zlib.error)  # gzip's first bytes, and its errors


class ItemHistory(NamedTuple):
    """What b users took up so far: items [b, T] int64, of which row k has its first ``lengths[k]``, the latest last;
    0 stands in the others. lengths [b] int64, each at least 1."""

    items: Tensor
    lengths: Tensor


@dataclass
class SessionSet:
    """Samples out of sessions: ``places`` [n] int64 of the items to be told, in ``items``, all sessions one after
    another; ``starts`` [n] int64, where the session of each begins. The model sees the ``length`` items before it."""

    items: Tensor
    starts: Tensor
    places: Tensor
    length: int

    def __len__(self) -> int:
        return len(self.places)

    @property
    def labels(self) -> Tensor:
        return self.items[self.places]

    def batch(self, index: Tensor) -> tuple[ItemHistory, Tensor]:
        """index [b] int64 -> what came before, and the items [b] int64 that came next."""
        index = torch.from_numpy(check_index(index, len(self)))
        places = self.places[index]
        first = torch.maximum(self.starts[index], places - self.length)
        lengths = places - first
        column = torch.arange(int(lengths.max()) if len(lengths) else 0)
        there = column < lengths.unsqueeze(1)
        taken = self.items[torch.where(there, first.unsqueeze(1) + column, 0)]
        return ItemHistory(torch.where(there, taken, 0), lengths), self.items[places]


@dataclass
class ItemData(FileData):
    """As ``FileData``; a class is an item, and models are judged by where they rank the next one."""

    split: str = "items"


def load_items(
    path: str | os.PathLike, columns: Sequence[str] | None = None, min_count: int = 5, length: int = 50
) -> ItemData:
    """The sessions of a log of events.

    columns: of user, item and time, by number from 0 or by the header's names; default 0, 1, 2, if there are three.
    min_count: items with fewer events are left out. length: items that a model sees, the latest.
    Events of a user at the same time stay in the file's order. Raises ValueError, with file and line, for a file that
    is none or broken, and for one that leaves no session of three items.
    """
    check_positive_int("min_count", min_count)
    check_positive_int("length", length)
    users, items, times, names = _read(_checked(path), columns)
    counts = np.bincount(items, minlength=len(names))
    kept = counts >= min_count
    number = np.cumsum(kept) - 1
    rows = kept[items].nonzero()[0]
    rows = rows[np.lexsort((times[rows], users[rows]))]  # stable: ties stay as they are
    sessions = np.unique(users[rows], return_counts=True)[1]
    if not len(sessions) or sessions.max() < 3:
        raise ValueError(
            f"{os.fspath(path)} has no user with 3 events of items that have {min_count}; it should have some: two to "
            "train on and one to test on (min_count sets another number)"
        )
    return split_sessions(number[items[rows]], sessions, np.array(names)[kept].tolist(), length)


def split_sessions(items: np.ndarray, sessions: np.ndarray, names, length: int) -> ItemData:
    """items [n], one session after another, of lengths ``sessions`` -> train and test; one of a single item has no
    sample."""
    ends = sessions.cumsum()
    starts = np.repeat(ends - sessions, sessions)
    place = np.arange(len(items))
    last = place == np.repeat(ends, sessions) - 1
    items = torch.from_numpy(items.astype(np.int64))

    def part(chosen: np.ndarray) -> SessionSet:
        chosen = chosen & (place > starts)
        return SessionSet(items, torch.from_numpy(starts[chosen]), torch.from_numpy(place[chosen]), length)

    return ItemData(part(~last), part(last), len(names), names)


def _checked(path: str | os.PathLike) -> str:
    try:
        return check_file("path", path, WANTED, _open)
    except BROKEN as error:
        raise _not_whole(path) from error


def _open(path: str, mode: str = "rb"):
    """The file, unpacked if gzip packed it."""
    with open(path, mode) as file:
        packed = file.read(len(PACKED)) == PACKED
    return gzip.open(path, mode) if packed else open(path, mode)


def _not_whole(path) -> ValueError:
    return ValueError(
        f"path is {os.fspath(path)}, which is packed by gzip, but damaged or cut short; it should be {WANTED}"
    )


def _lines(path: str) -> Iterator[str]:
    with _open(path) as file:
        try:
            for number, line in enumerate(file, 1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise ValueError(f"{path}, line {number}, is not text in UTF-8") from error
        except BROKEN as error:
            raise _not_whole(path) from error


def _rows(path: str) -> Iterator[tuple[int, list[str]]]:
    """The number of its line and the fields of each row; all have as many as the first."""
    first = next(_lines(path))
    separator = next((one for one in SEPARATORS if one in first), ",")
    # csv knows separators of one letter alone.
    lines = (line.replace(separator, "\t") for line in _lines(path)) if len(separator) > 1 else _lines(path)
    reader = csv.reader(lines, delimiter=separator if len(separator) == 1 else "\t")
    width = None
    try:
        for row in reader:
            width = width or len(row)
            if row and len(row) != width:
                raise ValueError(
                    f"{path}, line {reader.line_num}, has {len(row)} fields; it should have {width}, as the first line"
                )
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}, is not a row of a table ({error})") from error


def _read(path: str, columns: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """users, items [n] int64 (numbered as they come), times [n] float64, and the items' names."""
    rows = _rows(path)
    _, first = next(rows, (1, []))
    user, item, time = _columns(path, first, columns)
    user_number, item_number = {}, {}
    users, items, times = array("q"), array("q"), array("d")
    for line, row in _rows(path):
        when = time_of(row[time])
        if when is None:
            if line == 1:  # a header
                continue
            raise ValueError(
                f"{path}, line {line}, has the time {row[time]!r}; it should be a number, or a date such as "
                "2014-04-07T10:51:09"
            )
        for name, place in (("user", user), ("item", item)):
            if not row[place]:
                raise ValueError(f"{path}, line {line}, has no {name}")
        users.append(user_number.setdefault(row[user], len(user_number)))
        items.append(item_number.setdefault(row[item], len(item_number)))
        times.append(when)
    return np.array(users), np.array(items), np.array(times), list(item_number)


def _columns(path: str, first: list[str], columns: Sequence[str] | None) -> list[int]:
    """Where user, item and time stand; ``first`` are the fields of the first line."""
    shown = ", ".join(first)[:200]
    if columns is None:
        if len(first) != 3:
            raise ValueError(
                f"{path} has {len(first)} columns ({shown}); say which are user, item and time, as columns=0,1,3 or by "
                "the header's names"
            )
        return [0, 1, 2]
    places = [first.index(name) if name in first and not name.isdecimal() else name for name in columns]
    places = [int(place) if str(place).isdecimal() else -1 for place in places]
    if len(set(places)) != 3 or not all(0 <= place < len(first) for place in places):
        raise ValueError(
            f"columns is {','.join(map(str, columns))}; it should be three different ones of {path}, by number from 0 "
            f"or by name: {shown}"
        )
    return places


def time_of(text: str) -> float | None:
    """A number or a date of ISO 8601 (without a zone: UTC) -> seconds, or what the number counts; None if neither."""
    try:
        number = float(text)
    except ValueError:
        try:
            date = datetime.fromisoformat(text)
        except ValueError:
            return None
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    return number if np.isfinite(number) else None
