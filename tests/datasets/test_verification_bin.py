"""Verification pairs from a pickle that may not run anything."""

import os
import pickle
import struct

import numpy as np
import pytest
import torch
from written import damaged, png

from annsoftmax_ref.datasets.verification_bin import VerificationPairs, load_plain_pickle

SAME = [True, False, True, True, False]


IMAGES = [png(10 * k) for k in range(10)]


def write(tmp_path, content, protocol=4):
    path = tmp_path / "lfw.bin"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


FORMS = {
    "lists": (IMAGES, SAME),
    "list of lists": [IMAGES, SAME],
    "numpy bools": (IMAGES, [np.bool_(s) for s in SAME]),
    "numbers": (IMAGES, [int(s) for s in SAME]),
    "numpy numbers": (IMAGES, [np.int64(s) for s in SAME]),
    "bool array": (IMAGES, np.array(SAME)),
    "number array": (tuple(IMAGES), np.array(SAME, dtype=">i4")),
    "byte arrays": ([np.frombuffer(i, np.uint8).copy() for i in IMAGES], SAME),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("form", FORMS)
def test_pairs(tmp_path, form, protocol):
    pairs = VerificationPairs(write(tmp_path, FORMS[form], protocol))
    assert len(pairs) == 5 and pairs.same.tolist() == SAME
    first, second, same = pairs.batch(torch.tensor([4, 0]))
    assert first[:, 3, 3].tolist() == [80, 0] and second[:, 3, 3].tolist() == [90, 10]
    assert same.tolist() == [False, True] and first.shape == (2, 32, 32)


def test_bytearrays(tmp_path):
    assert VerificationPairs(write(tmp_path, ([bytearray(i) for i in IMAGES], SAME), 5)).same.tolist() == SAME


def test_colour(tmp_path):
    assert VerificationPairs(write(tmp_path, (IMAGES, SAME)), size=8, grey=False).batch([1])[1].shape == (1, 3, 8, 8)


def test_python_2(tmp_path):
    """As Python 2 wrote it: its strings are bytes (SHORT_BINSTRING, BINSTRING)."""
    images = b"".join(b"T" + struct.pack("<i", len(i)) + i for i in IMAGES)
    same = b"".join(b"\x88" if s else b"\x89" for s in SAME)
    path = write(tmp_path, b"\x80\x02](" + images + b"e](" + same + b"e\x86.")
    assert VerificationPairs(path).batch([2])[0][0, 0, 0] == 40


class Evil:
    def __init__(self, call, *arguments):
        self.made = (call, arguments)

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("call", [os.system, os.mkdir, eval, getattr, np.load, np.zeros, pickle.loads, bytearray])
def test_nothing_is_run(tmp_path, call, protocol):
    path = write(tmp_path, ([Evil(call, str(tmp_path / "made"))], SAME), protocol)
    with pytest.raises(ValueError, match="not among what such a file needs"):
        VerificationPairs(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("what", [{}, {1}, frozenset([1]), 1.5, Ellipsis, slice(1), np.array([None]), np.array([1.5])])
def test_other_kinds_are_refused(tmp_path, what):
    with pytest.raises(ValueError, match="lfw.bin is not a whole pickle"):
        VerificationPairs(write(tmp_path, ([what], SAME)))


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x04cnumpy\ndtype\n(]\x8c\x01ad1\x86b.",  # attributes set on what a name gave
        b"\x80\x04cnumpy\nndarray\n)\x81.",  # made without its function
        b"\x80\x04cnumpy\nndarray\nN]\x86b.",
        b"\x80\x04cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x01\x00\x00\x00OtRC\x08AAAAAAAAtR.",
        b"\x80\x04r\xff\xff\xff\xff.",  # the largest row of the memo
        b"\x80\x04]r\xff\xff\xff\x7f.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",  # 2^63 bytes
        b"\x80\x04B\xff\xff\xff\xffabc.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        b"\x80\x04" + b"(" * 100_000 + b"t" * 99_999 + b".",
        b"I" + b"9" * 100_000 + b"\n.",
        b"\x80\x09.",
        b".",
    ],
)
def test_hostile_programs(tmp_path, program):
    with pytest.raises(ValueError, match="lfw.bin"):
        VerificationPairs(write(tmp_path, program))


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "is empty"),
        ((IMAGES, SAME, 1), "holds a tuple"),
        (3, "holds a int"),
        ((IMAGES[:9], SAME), "holds 9 images and 5 answers"),
        (([], []), "0 images"),
        ((b"abc", SAME), "holds a bytes first"),
        ((IMAGES, b"abc"), "holds a bytes second"),
        ((["abc", *IMAGES[1:]], SAME), "image 0, is of type str"),
        ((IMAGES, [True, 2, True, True, False]), "answer 1, is 2"),
        ((IMAGES, [True, None, True, True, False]), "answer 1, is of type NoneType"),
        ((IMAGES, [True, 2**80000, True, True, False]), "answer 1, is of type int"),
        (pickle.dumps((IMAGES, SAME)) + b"x", "goes on after"),
    ],
)
def test_clear_errors(tmp_path, content, words):
    with pytest.raises(ValueError, match=words):
        VerificationPairs(write(tmp_path, content))


def test_a_broken_image_is_named(tmp_path):
    pairs = VerificationPairs(write(tmp_path, ([*IMAGES[:3], IMAGES[3][:40], *IMAGES[4:]], SAME)))
    pairs.batch([0])
    with pytest.raises(ValueError, match="lfw.bin, image 3, is not a whole image"):
        pairs.batch([1])


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("form", ["lists", "bool array"])
def test_damage_is_told_or_harmless(tmp_path, form, protocol):
    """Cut anywhere: an error. A bit flipped: an error, or 5 pairs of which at most one answer or image differs."""
    path = write(tmp_path, FORMS[form], protocol)
    original = path.read_bytes()
    for _, cut, content in damaged(original, 150, seed=protocol):
        path.write_bytes(content)
        try:
            pairs = VerificationPairs(path)
            assert not cut, "a file that is cut short was taken for a whole one"
            pairs.batch(torch.arange(len(pairs)))
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert len(pairs) == 5
            assert sum(a != b for a, b in zip(pairs.same.tolist(), SAME, strict=True)) <= 1


def test_plain_values_come_back(tmp_path):
    value = [(b"x", True, None, -5, 2**80), ["text", []]]
    assert load_plain_pickle(write(tmp_path, value)) == value
