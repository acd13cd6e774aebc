"""Pairs of faces, same person or not, in InsightFace's ``.bin`` files: LFW, CFP-FP, CFP-FF, AgeDB-30, CALFW, CPLFW,
VGG2-FP.

Such a file is a pickle of two lists: encoded images (bytes, or arrays of bytes), and for each two of them whether they
show the same person (InsightFace, ``recognition/arcface_torch/eval/verification.py``: images 2k and 2k + 1 are pair k).
A pickle is a program, and one from the network may do anything. Here it may only build lists, tuples, bytes, texts,
bools, whole numbers and NumPy's arrays of such; NumPy's own functions are not called, ours stand for them.
"""

from __future__ import annotations

import math
import mmap
import os
import pickle
import pickletools
import re

import numpy as np
import torch
from torch import Tensor

from annsoftmax_ref.checks import check_positive_int
from annsoftmax_ref.datasets.files import check_file, check_index, decode_image, stack_images

# No dictionaries, sets, instances, extension codes, persistent names or buffers out of band.
OPCODES = (
    "PROTO FRAME STOP MARK EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 NONE "
    "NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "GLOBAL STACK_GLOBAL REDUCE BUILD PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET"
).split()


class VerificationPairs:
    """The pairs of a ``.bin`` file: ``len`` is their number, ``same`` [n] bool says which are of one person.

    The file is read whole, once, as a pickle must be (70 to 140 MB for the published ones); images stay encoded
    until a batch asks for them. Raises ValueError, with the file and the place, for one that is broken or not of this
    form. The format has no checksum: a flipped bit inside ``same`` cannot be told.
    """

    def __init__(self, path: str | os.PathLike, size: int = 32, grey: bool = True):
        self.size, self.grey = check_positive_int("size", size), grey
        content = load_plain_pickle(path)
        self.path = os.fspath(path)
        if not isinstance(content, (tuple, list)) or len(content) != 2:
            raise ValueError(
                f"{self.path} holds a {type(content).__name__}; it should be a list of images and of bools"
            )
        images, same = content
        if not isinstance(images, (list, tuple)):
            raise ValueError(f"{self.path} holds a {type(images).__name__} first; it should be a list of images")
        self._images = [_as_bytes(image, f"{self.path}, image {k},") for k, image in enumerate(images)]
        self.same = _as_bools(same, self.path)
        if len(self._images) != 2 * len(self.same) or not len(self.same):
            raise ValueError(
                f"{self.path} holds {len(self._images)} images and {len(self.same)} answers; "
                "it should be two images an answer"
            )

    def __len__(self) -> int:
        return len(self.same)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """index [b] int64 -> first and second images uint8 [b, size, size] (colour: [b, 3, size, size]), same [b]."""
        rows = check_index(index, len(self))
        sides = [stack_images([self._decode(2 * k + side) for k in rows], self.size, self.grey) for side in (0, 1)]
        return sides[0], sides[1], self.same[rows]

    def _decode(self, k: int) -> np.ndarray:
        return decode_image(self._images[k], f"{self.path}, image {k},", self.size, self.grey)


def load_plain_pickle(path: str | os.PathLike):
    """The lists, tuples, bytes, bools, whole numbers and arrays in a pickle; ValueError if it asks for others."""
    path = check_file("path", path, "a .bin file, a pickle of images and answers")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        try:
            content = _PlainUnpickler(whole, encoding="bytes").load()
        except Exception as error:  # damaged pickles raise nearly every kind there is
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(
                f"{path} is not a whole pickle of lists, bytes and bools: {reason[:200]} near byte {whole.tell()}"
            ) from error
        if whole.tell() != len(whole):
            raise ValueError(f"{path} goes on after its pickle's end at byte {whole.tell()} of {len(whole)}")
    return content


class _PlainUnpickler(pickle._Unpickler):
    """The unpickler in Python, not C: its memo is a dictionary, so no damaged number makes a table of 2^32 rows."""

    dispatch = {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in OPCODES}

    def load(self):
        try:
            return super().load()
        except KeyError as error:
            code = error.args[0] if error.args else None
            names = {ord(o.code): o.name for o in pickletools.opcodes}
            if code in names and code not in self.dispatch:
                raise pickle.UnpicklingError(f"{names[code]} is not among what such a file needs") from error
            if code not in names:
                raise pickle.UnpicklingError(f"no part of a pickle starts with the byte {code!r}") from error
            raise

    def find_class(self, module: str, name: str) -> _Maker:
        module, name = _text(module), _text(name)
        if re.fullmatch(r"numpy(\._?core)?(\.(multiarray|numeric))?|_codecs", module) and name in MAKERS:
            return MAKERS[name]
        raise pickle.UnpicklingError(f"{module}.{name} is not among what such a file needs")


class _Maker:
    """Stands for a function or class that a pickle names. Nothing can be set on it; nothing else can be called."""

    __slots__ = ("_make",)

    def __init__(self, make):
        object.__setattr__(self, "_make", make)

    def __call__(self, *arguments):
        return self._make(*arguments)

    def __setattr__(self, name, value):
        raise pickle.UnpicklingError("a function's attributes are set")

    def __setstate__(self, state):
        raise pickle.UnpicklingError("a function's state is set")


class _Type:
    """Stands for numpy.dtype: single bytes, bools and whole numbers."""

    def __init__(self, code, *_):
        code = _text(code)
        if not re.fullmatch(r"[<>|=]?([biu][1248]|\?)", code) or code.lstrip("<>|=") in ("b2", "b4", "b8"):
            raise pickle.UnpicklingError(f"an array's type is {code!r}, not bools or whole numbers")
        self.type = np.dtype(code)

    def __setstate__(self, state):
        order = _text(state[1])
        if order not in "<>|=" or len(order) != 1:
            raise pickle.UnpicklingError(f"an array's byte order is {order!r}")
        self.type = self.type.newbyteorder(order)


class _Array:
    """Stands for numpy.ndarray; ``value`` is the array, once there is one. The pickle never holds the array itself."""

    def __init__(self, value: np.ndarray | None = None):
        self.value = value

    def __setstate__(self, state):
        _, shape, kind, _, content = state
        self.value = _array(content, kind, shape)


def _array(content, kind, shape, *_) -> np.ndarray:
    """The array [n] of the bytes; lists of images and answers have one dimension, so order in memory is one, too."""
    if not isinstance(kind, _Type) or not isinstance(content, (bytes, bytearray)):
        raise pickle.UnpicklingError("an array is not made of bytes and a type")
    if not isinstance(shape, tuple) or len(shape) > 1 or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError(f"an array's shape is {shape!r}; it should be of one dimension")
    if math.prod(shape) * kind.type.itemsize != len(content):
        raise pickle.UnpicklingError(f"an array of shape {shape} has {len(content)} bytes")
    return np.frombuffer(content, kind.type).reshape(shape)


def _encoded(text, encoding) -> bytes:
    """Bytes as Python 3 writes them in protocols 0 to 2: a text in Latin 1, and the call that encodes it."""
    if _text(encoding) not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes are encoded as {encoding!r}")
    return text.encode("latin1")


MAKERS = {
    "encode": _Maker(_encoded),
    "ndarray": _Maker(lambda *_: _Array()),
    "dtype": _Maker(_Type),
    "_reconstruct": _Maker(lambda kind, shape, code: _Array()),
    "_frombuffer": _Maker(lambda *arguments: _Array(_array(*arguments))),
    "scalar": _Maker(lambda kind, content: _array(content, kind, (1,))[0].item()),
}


def _text(value) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def _as_bytes(image, where: str) -> bytes:
    image = image.value if isinstance(image, _Array) else image
    if isinstance(image, np.ndarray) and image.dtype.itemsize == 1:
        image = image.tobytes()
    if not isinstance(image, (bytes, bytearray)):
        raise ValueError(f"{where} is of type {type(image).__name__}; it should be the bytes of an encoded image")
    return image


def _as_bools(same, path: str) -> Tensor:
    same = same.value if isinstance(same, _Array) else same
    if isinstance(same, np.ndarray):
        same = same.tolist()
    if not isinstance(same, (list, tuple)):
        raise ValueError(f"{path} holds a {type(same).__name__} second; it should be a list of bools")
    for k, value in enumerate(same):
        if not isinstance(value, int) or value not in (0, 1):
            shown = value if isinstance(value, int) and abs(value) < 2**63 else f"of type {type(value).__name__}"
            raise ValueError(f"{path}, answer {k}, is {shown}; it should be True or False")
    return torch.tensor([bool(value) for value in same], dtype=torch.bool)
