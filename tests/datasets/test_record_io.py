"""RecordIO: written here by the format's rules, read back record by record, and never with a wrong label unnoticed."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from written import MAGIC, content, damaged, png, write, write_faces

from annsoftmax_ref.datasets.record_io import RecordFile, RecordSet, load_record_io


@pytest.fixture
def faces(tmp_path):
    return write_faces(tmp_path)


def test_images_and_labels(faces):
    whole = RecordSet(faces)
    assert len(whole) == 12 and whole.num_classes == 4
    images, labels = whole.batch(torch.tensor([11, 0, 5]))
    assert labels.tolist() == [3, 0, 1] and labels.dtype == torch.int64
    assert images[:, 3, 3].tolist() == [120, 10, 60] and images.shape == (3, 32, 32) and images.dtype == torch.uint8
    assert RecordSet(faces, size=8, grey=False).batch(torch.tensor([1]))[0].shape == (1, 3, 8, 8)


def test_train_and_test(faces):
    data = load_record_io(faces.parent, held_out=0.25, seed=1)
    assert (len(data.train), len(data.test), data.num_classes, data.class_names[3]) == (9, 3, 4, "3")
    assert sorted([*data.train.rows.tolist(), *data.test.rows.tolist()]) == list(range(12))
    images, labels = data.train.batch(torch.arange(9))
    assert torch.equal((images[:, 0, 0].long() // 10 - 1) // 3, labels)
    (faces.parent / "property").write_text("9,112,112\n")
    assert load_record_io(faces).num_classes == 9


@pytest.mark.parametrize("header, classes", [((4, 6), 2), ((4, 3), 3), ((4, 4), None), ((4,), None)])
def test_the_ways_to_write_record_0(tmp_path, header, classes):
    """(images + 1, end of the identities), (images + 1, classes) and (images + 1, itself), here at the file's end."""
    path = write(tmp_path, [*((k, content(k % 2, png(k))) for k in (1, 2, 3)), (0, content(header, b""))])
    if classes is None:
        with pytest.raises(ValueError, match="num_classes is None"):
            RecordSet(path)
    assert RecordSet(path, num_classes=classes or 2).batch(torch.arange(3))[1].tolist() == [1, 0, 1]
    if classes is not None:
        assert RecordSet(path).num_classes == classes


@pytest.mark.parametrize("header", [(5, 9), (1, 9), (4.5, 9), (float("nan"), 9), (4, float("inf")), (-4, 9)])
def test_record_0_of_another_set(tmp_path, header):
    path = write(tmp_path, [(0, content(header, b"")), *((k, content(k % 2, png(k))) for k in (1, 2, 3))])
    with pytest.raises(ValueError, match="train.rec"):
        RecordSet(path)


@pytest.mark.parametrize("where", [[0], [8], [4, 8], [4, 12], [0, 4, 8, 12]])
@pytest.mark.parametrize("tail", [0, 1, 3])
def test_the_magic_number_inside_a_record(tmp_path, where, tail):
    body = bytearray(range(16)) + b"abc"[:tail]
    for place in where:
        body[place : place + 4] = MAGIC
    path = write(tmp_path, [(5, content(1.0, bytes(body))), (9, content([2.0, 3.0], b"x"))])
    records = RecordFile(path)
    assert records.read(5)[1] == bytes(body)
    labels, rest = records.read(9)
    assert labels.tolist() == [2.0, 3.0] and rest == b"x"


def test_without_header_keys_in_any_order_and_lst(tmp_path):
    path = write(tmp_path, [(7, content(2.0, png(70))), (0, content(0.0, png(1))), (3, content(1.0, png(30)))])
    lst = tmp_path / "train.lst"
    lst.write_text("3\t1.000000\tb/x.png\n0\t0.000000\ta/y.png\n7\t2.000000\tc/z.png\n")
    whole = RecordSet(path, lst_path=lst)
    assert whole.num_classes == 3
    images, labels = whole.batch(torch.arange(3))
    assert labels.tolist() == [0, 1, 2] and images[:, 0, 0].tolist() == [1, 30, 70]
    with pytest.raises(ValueError, match="num_classes is None"):
        RecordSet(path)
    lst.write_text("3\t2.000000\tb/x.png\n0\t0.000000\ta/y.png\n7\t2.000000\tc/z.png\n")
    with pytest.raises(ValueError, match="record 3 at byte .* has the label 1, but 2 in the list"):
        RecordSet(path, lst_path=lst).batch(torch.arange(3))
    lst.write_text("3\t2.000000\tb/x.png\n0\t0.000000\ta/y.png\n")
    with pytest.raises(ValueError, match="lists 2 keys"):
        RecordSet(path, lst_path=lst)


@pytest.mark.parametrize("label", [4.0, -1.0, 0.5, float("nan"), float("inf")])
def test_impossible_labels(tmp_path, label):
    path = write(tmp_path, [(1, content(label, png(0))), (2, content(0.0, png(0)))])
    with pytest.raises(ValueError, match="record 1 at byte 0, has the label"):
        RecordSet(path, num_classes=4).batch(torch.tensor([0]))


@pytest.mark.parametrize(
    "idx, words",
    [
        ("", "empty"),
        ("0\t0\n1\t", "train.idx"),
        ("0\t0\n0\t48\n", "twice"),
        ("0\t0\n1\t0\n", "each once"),
        ("0\t0\n1\t50\n", "multiples of 4"),
        ("0\t0\n1\t99999996\n", "cut short"),
        ("0\t0\n1\t48", "line's end"),
        ("0\t0\nx\t48\n", "not lines of numbers"),
        ("0\t0\n1\t4.5\n", "not lines of numbers"),
        ("0\t0\n1\t99999999999999999999999\n", "not lines of numbers"),
        ("0 0\n", "not lines of numbers"),
        ("0\t0\n1\t48\n", "followed by a record that .*train.idx leaves out; it should list all"),
    ],
)
def test_broken_idx(faces, idx, words):
    faces.with_suffix(".idx").write_text(idx)
    with pytest.raises(ValueError, match=words):
        RecordSet(faces).batch(torch.tensor([0]))


def test_missing_files(tmp_path, faces):
    faces.with_suffix(".idx").unlink()
    with pytest.raises(ValueError, match="idx_path is .*train.idx, which is not a file"):
        RecordSet(faces)
    with pytest.raises(ValueError, match="path is .*none.rec"):
        load_record_io(tmp_path / "none.rec")


@pytest.mark.parametrize("target", ["train.rec", "train.idx"])
def test_damage_is_told_or_harmless(faces, target):
    """Truncated or one bit flipped: an error of one line that names a file, or the very labels that were written.

    The exception is the bits that the format leaves unprotected: those of the label itself (a whole number in
    range stays believable), and of the count of labels, which says where the label is.
    """
    path = faces.parent / target
    original = path.read_bytes()
    right = RecordSet(faces).batch(torch.arange(12))[1]
    records = RecordFile(faces)
    starts = records.offsets[(records.keys >= 1) & (records.keys <= 12)]
    unprotected = {int(s) + 8 + i for s in starts for i in (*range(0, 8), *range(24, 32))}
    told = 0
    for place, _, broken in damaged(original, 250, seed=target):
        path.write_bytes(broken)
        try:
            whole = RecordSet(faces)
        except ValueError as error:
            told += 1
            assert str(faces.parent) in str(error) and "\n" not in str(error)
            continue
        assert len(whole) == 12
        for row in range(12):
            try:
                images, labels = whole.batch(torch.tensor([row]))
            except ValueError as error:
                told += 1
                assert str(faces.parent) in str(error) and "\n" not in str(error)
            else:
                assert images.shape == (1, 32, 32)
                if target != "train.rec" or place not in unprotected:
                    assert labels[0] == right[row], place
    assert told > 100


def test_only_what_is_asked_for_is_read(tmp_path, monkeypatch):
    image = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    path = write(tmp_path, [(k, content(float(k), buffer.getvalue())) for k in range(50)])
    whole = RecordSet(path, num_classes=50)
    asked = []
    read = RecordFile.read
    monkeypatch.setattr(RecordFile, "read", lambda self, key: asked.append(key) or read(self, key))
    whole.batch(torch.tensor([3, 40]))
    assert asked == [3, 40]
