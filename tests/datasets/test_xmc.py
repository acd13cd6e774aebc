"""Sparse texts with many labels: lines as they were written, one positive or all, and broken files told."""

import pytest
import torch
from written import damaged

from annsoftmax_ref.datasets.xmc import XMCFile, load_xmc

LINES = [
    "3,0 1:0.5 7:1.25",
    "2 0:-1e-3",
    " 4:2",  # no label
    "1,2,3",  # no feature
    "5:1 6:.5",  # no label, and no space before the features
    "0 2:3. 9:4",
]
TEXT = "6 10 4\n" + "\n".join(LINES) + "\n"


@pytest.fixture
def path(tmp_path):
    (tmp_path / "train.txt").write_text(TEXT)
    return tmp_path / "train.txt"


def test_points_and_all_labels(path):
    points = XMCFile(path)
    assert (len(points), points.num_points, points.num_features, points.num_classes) == (4, 6, 10, 4)
    rows, label_offsets, labels = points.batch_all(torch.tensor([3, 0, 2]))
    assert rows.offsets.tolist() == [0, 2, 4, 4] and rows.features.tolist() == [2, 9, 1, 7]
    assert rows.values.tolist() == [3.0, 4.0, 0.5, 1.25] and rows.values.dtype == torch.float32
    assert label_offsets.tolist() == [0, 1, 3, 6] and labels.tolist() == [0, 3, 0, 1, 2, 3]
    assert points.line_number(3) == 7
    embedded = torch.nn.EmbeddingBag(10, 3, mode="sum", include_last_offset=True)(
        rows.features, rows.offsets, per_sample_weights=rows.values
    )
    assert embedded.shape == (3, 3)


def test_unlabelled_points(path):
    points = XMCFile(path, keep_unlabelled=True)
    assert len(points) == 6
    rows, label_offsets, labels = points.batch_all(torch.arange(6))
    assert label_offsets.tolist() == [0, 2, 3, 3, 6, 6, 7]
    assert rows.features.tolist() == [1, 7, 0, 4, 5, 6, 2, 9]
    assert rows.values[2:6].tolist() == pytest.approx([-1e-3, 2, 1, 0.5])
    with pytest.raises(ValueError, match="line 4, has no label to draw"):
        points.batch(torch.tensor([0, 2]))


def test_one_positive_is_drawn_evenly(path):
    points = XMCFile(path)
    index = torch.full((3000,), 2)
    labels = points.batch(index, torch.Generator().manual_seed(1))[1]
    assert torch.equal(labels, points.batch(index, torch.Generator().manual_seed(1))[1])
    counts = torch.bincount(labels, minlength=4)
    assert counts[0] == 0 and (counts[1:] - 1000).abs().max() < 4 * (3000 * 2 / 9) ** 0.5
    assert points.batch(torch.arange(4))[1].tolist() == [3, 2, 1, 0]
    assert points.batch(torch.tensor([], dtype=torch.int64))[1].shape == (0,)


def test_other_line_ends(path):
    for text in (
        TEXT.replace("\n", "\r\n"),
        TEXT[:-1],
        TEXT + "\n\n",
        TEXT.replace(" 7:", "\t7:"),
        TEXT.replace("\n", " \n"),
    ):
        path.write_bytes(text.encode())
        rows, offsets, labels = XMCFile(path).batch_all(torch.arange(4))
        assert labels.tolist() == [3, 0, 2, 1, 2, 3, 0] and rows.features.tolist() == [1, 7, 0, 2, 9]


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "which is empty; it should be a text of points"),
        ("6 10\n", "line 1, is not"),
        ("6 10 4 1\n1 2:3\n", "line 1, is not"),
        ("0 10 4\n", "no point with a label"),
        ("1 10 4\n 2:3\n", "no point with a label"),
        ("3 10 4\n1 2:3\n", "ends in line 3; it should have 3 points"),
        ("1 10 4\n1 2:3\n1 2:3\n", "more lines than the 1 points"),
        ("1 10 4\n4 2:3\n", "line 2, has the label 4; it should be below 4"),
        ("1 10 4\n1 10:3\n", "line 2, has the feature 10"),
        ("1 10 4\n99999999999999999999999 1:3\n", "line 2, has the label"),
        ("1 10 4\n1,1 1:3\n", "a label twice"),
        ("1 10 4\n1 2:3 2:4\n", "a feature twice"),
        ("1 10 4\n1 2:nan\n", "line 2, is not"),
        ("1 10 4\n1 2:1e999\n", "not finite"),
        ("1 10 4\n1 2\n", "line 2, is not"),
        ("1 10 4\n1,,2 2:3\n", "line 2, is not"),
        ("1 10 4\n-1 2:3\n", "line 2, is not"),
        ("1 10 4\n1 2:3:4\n", "line 2, is not"),
        ("1 10 4\nx:1 2:3\n", "no point with a label"),
    ],
)
def test_clear_errors(path, text, words):
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        XMCFile(path).batch_all(torch.tensor([0]))


def test_only_the_line_asked_for_is_parsed(path):
    path.write_text(TEXT.replace("2 0:-1e-3", "2 0:broken"))
    points = XMCFile(path)
    assert points.batch(torch.tensor([0, 2, 3]))[1].tolist() == [3, 1, 0]
    with pytest.raises(ValueError, match="train.txt, line 3, is not"):
        points.batch(torch.tensor([1]))


def test_a_long_line_of_digits_ends_soon(path):
    path.write_bytes(b"1 10 4\n" + b"1," * 200_000 + b"x\n")
    with pytest.raises(ValueError, match="line 2, is not"):
        XMCFile(path).batch(torch.tensor([0]))


def test_damage_is_told_or_believable(path):
    """Text has no checksum, so another digit passes; all else is told, and no number is out of its range."""
    original = TEXT.encode()
    told = 0
    for place, cut, content in damaged(original, 300, seed=0):
        path.write_bytes(content)
        try:
            points = XMCFile(path, keep_unlabelled=True)
            rows, offsets, labels = points.batch_all(torch.arange(len(points)))
        except ValueError as error:
            told += 1
            assert str(path) in str(error) and "\n" not in str(error)
            continue
        # Cut short: only within the last line, where what is left is a line, too.
        assert not cut or place >= len(original) - len(LINES[-1]) - 1
        assert (labels < points.num_classes).all() and (rows.features < points.num_features).all()
        assert rows.values.isfinite().all() and len(offsets) == len(points) + 1
    assert told > 150


def test_train_and_test(path, tmp_path):
    (tmp_path / "test.txt").write_text("1 10 4\n0,3 1:1\n")
    data = load_xmc(path, tmp_path / "test.txt")
    assert (len(data.train), len(data.test), data.num_classes, data.num_features) == (4, 1, 4, 10)
    assert list(data.class_names) == ["0", "1", "2", "3"] and data.split == "multilabel"
    data = load_xmc(path, held_out=0.25, seed=1)
    assert (len(data.train), len(data.test)) == (3, 1)
    rows = torch.cat([data.train.rows, data.test.rows])
    assert rows.sort().values.tolist() == [0, 1, 2, 3] and data.train.draws
    index = torch.full((50,), int((data.train.rows == 2).nonzero()[0]) if 2 in data.train.rows else 0)
    drawn = data.train.batch(index, torch.Generator().manual_seed(1))[1]
    assert torch.equal(drawn, data.train.batch(index, torch.Generator().manual_seed(1))[1])
    kept = XMCFile(path).batch_all(data.test.rows)
    assert all(torch.equal(a, b) for a, b in zip(data.test.batch_all([0])[1:], kept[1:], strict=True))
    (tmp_path / "test.txt").write_text("1 11 4\n0,3 1:1\n")
    with pytest.raises(ValueError, match="test.txt has num_features 11; it should be 10"):
        load_xmc(path, tmp_path / "test.txt")
    with pytest.raises(IndexError, match="index holds 3"):
        load_xmc(path, held_out=0.25).train.batch(torch.tensor([3]))
