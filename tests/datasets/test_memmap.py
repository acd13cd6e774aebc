"""Mapped feature files: rows and labels as written, nothing else read, and broken files told."""

import numpy as np
import pytest
import torch
from written import damaged

from annsoftmax_ref.datasets.memmap import MappedFeatures, load_memmap

N, D = 20, 6


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, D)).astype(np.float32), np.arange(N, dtype=np.int64) % 5


@pytest.fixture
def npy(tmp_path, arrays):
    for name, array in zip(("x.npy", "y.npy"), arrays, strict=True):
        np.save(tmp_path / name, array)
    return tmp_path / "x.npy", tmp_path / "y.npy"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("form", ["npy", "raw", "mixed", "fortran", "skip"])
def test_rows_and_labels(tmp_path, arrays, form, dtype):
    features, labels = arrays[0].astype(dtype), arrays[1]
    x, y = (
        tmp_path / ("x.npy" if form in ("npy", "fortran") else "x.bin"),
        tmp_path / ("y.npy" if form == "npy" else "y"),
    )
    np.save(y, labels) if form == "npy" else labels.tofile(y)
    settings = {}
    if x.suffix == ".npy":
        np.save(x, np.asfortranarray(features) if form == "fortran" else features)
    else:
        skip = 8 if form == "skip" else 0
        x.write_bytes(b"\1" * skip + features.tobytes())
        settings = {"width": D, "dtype": dtype, "skip": skip}
    data = MappedFeatures(x, y, 5, **settings)
    assert len(data) == N and data.width == D
    rows, own = data.batch(torch.tensor([19, 0, 3, 3]))
    assert rows.dtype == torch.float32 and own.dtype == torch.int64 and own.tolist() == [4, 0, 3, 3]
    assert np.array_equal(rows.numpy(), features[[19, 0, 3, 3]].astype(np.float32))


def test_train_and_test(npy, arrays):
    data = load_memmap(*npy, num_classes=5, held_out=0.25)
    assert (len(data.train), len(data.test), data.num_classes) == (15, 5, 5)
    assert list(data.class_names) == ["0", "1", "2", "3", "4"]
    rows, labels = data.test.batch(torch.arange(5))
    assert np.array_equal(rows.numpy(), arrays[0][15:]) and labels.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(IndexError, match="index holds 15"):
        data.train.batch(torch.tensor([15]))


def test_a_terabyte_is_not_read(tmp_path):
    """Sparse files of 2^33 rows: only the rows that are asked for are ever touched."""
    n = 2**33
    for name, row in (("x.bin", 128), ("y.bin", 8)):
        with open(tmp_path / name, "wb") as file:
            try:
                file.truncate(n * row)
            except OSError as error:
                pytest.skip(f"this file system keeps no file of {n * row} bytes: {error}")
            file.seek((n - 1) * row)
            file.write((np.full(64, 2, np.float16) if name == "x.bin" else np.array([7])).tobytes())
    data = load_memmap(tmp_path / "x.bin", tmp_path / "y.bin", 10**8, width=64, dtype="float16", held_out=0.5)
    assert len(data.train) == n // 2 and data.class_names[10**8 - 1] == "99999999"
    rows, labels = data.test.batch(torch.tensor([n // 2 - 1, 5]))
    assert rows[0].eq(2).all() and rows[1].eq(0).all() and labels.tolist() == [7, 0]


def test_clear_errors(tmp_path, npy, arrays):
    x, y = npy
    raw = tmp_path / "x.bin"
    arrays[0].tofile(raw)
    (tmp_path / "short").write_bytes(arrays[1].tobytes()[:-8])
    (tmp_path / "empty").write_bytes(b"")
    np.save(tmp_path / "double.npy", arrays[0].astype(np.float64))
    np.save(tmp_path / "big.npy", arrays[0].astype(">f4"))
    np.save(tmp_path / "objects.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    for call, words in [
        (lambda: MappedFeatures(tmp_path / "none", y, 5), "none, which is not a file"),
        (lambda: MappedFeatures(raw, y, 5), "width and dtype have to be given"),
        (lambda: MappedFeatures(raw, y, 5, width=7, dtype="float32"), "ends within row 17"),
        (lambda: MappedFeatures(raw, y, 5, width=6, dtype="float64"), "dtype is 'float64'"),
        (lambda: MappedFeatures(raw, y, 5, width=6, dtype="float32", skip=-1), "skip is -1"),
        (lambda: MappedFeatures(raw, y, 5, width=6, dtype="float16"), "40 rows and .* 20 labels"),
        (lambda: MappedFeatures(x, tmp_path / "short", 5), "20 rows and .* 19 labels"),
        (lambda: MappedFeatures(x, tmp_path / "empty", 5), "labels is .*empty, which is empty; it should be labels"),
        (lambda: MappedFeatures(tmp_path / "double.npy", y, 5), "<f8; it should be little-endian float16 or"),
        (lambda: MappedFeatures(tmp_path / "big.npy", y, 5), ">f4; it should be little-endian"),
        (lambda: MappedFeatures(tmp_path / "objects.npy", y, 5), "objects.npy is not a whole .npy file"),
        (lambda: MappedFeatures(y, y, 5), "it should be little-endian float16 or float32 .n, d."),
        (lambda: MappedFeatures(x, x, 5), "it should be little-endian int64 .n."),
        (lambda: MappedFeatures(x, y, 5, width=7), "6 numbers a row"),
        (lambda: MappedFeatures(x, y, 5, start=20), "rows 20 to 20"),
        (
            lambda: MappedFeatures(x, y, 4).batch(torch.arange(6)),
            "y.npy, row 4, has the label 4; it should be from 0 to 3",
        ),
        (lambda: load_memmap(x, y, 5, held_out=0), "held_out is 0"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    arrays[0][3, 2] = np.nan
    np.save(x, arrays[0])
    with pytest.raises(ValueError, match="x.npy, row 3, has a value that is not finite"):
        MappedFeatures(x, y, 5).batch(torch.tensor([1, 3]))


@pytest.mark.parametrize("which", [0, 1])
def test_a_file_cut_while_it_is_open(npy, which):
    data = MappedFeatures(*npy, 5)
    with open(npy[which], "r+b") as file:
        file.truncate(0)
    with pytest.raises(ValueError, match="npy had .* bytes when it was opened"):
        data.batch(torch.tensor([0]))


@pytest.mark.parametrize("which", [0, 1])
def test_damage_is_told_or_believable(npy, arrays, which):
    """Cut anywhere: an error. A bit flipped: an error, or the rows and labels as written but for that one number."""
    original = npy[which].read_bytes()
    for _, cut, content in damaged(original, 300, seed=which, within=128):
        npy[which].write_bytes(content)
        try:
            data = MappedFeatures(*npy, 5)
            assert not cut, "a file that is cut short was taken for a whole one"
            rows, labels = data.batch(torch.arange(len(data)))
        except ValueError as error:
            assert "\n" not in str(error) and ("x.npy" in str(error) or "y.npy" in str(error))
        else:
            assert rows.shape == (N, D)
            assert int((labels.numpy() != arrays[1]).sum()) + int((rows.numpy() != arrays[0]).sum()) <= 1
