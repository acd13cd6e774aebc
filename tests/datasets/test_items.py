"""datasets/items.py: logs of events as sessions; the last item is tested on, the ones between are trained on."""

import gzip
import random
import re

import pytest
import torch
from written import damaged

from annsoftmax_ref.datasets import load_items
from annsoftmax_ref.datasets.items import time_of

# user, item, time: out of order, and b's last two at the same time, so that the file's order counts.
EVENTS = [("a", "x", 3), ("b", "y", 1), ("a", "y", 1), ("a", "z", 2), ("b", "z", 9), ("b", "x", 9), ("c", "y", 5)]


def write(path, events=EVENTS, separator=",", header=None):
    lines = [header] * (header is not None) + [separator.join(map(str, event)) for event in events]
    text = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def samples(part, names):
    """Each sample as (what came before, what came next)."""
    (items, lengths), labels = part.batch(torch.arange(len(part)))
    return [
        ([names[item] for item in row[:length]], names[label])
        for row, length, label in zip(items.tolist(), lengths.tolist(), labels.tolist(), strict=True)
    ]


def test_the_last_item_by_time_is_tested_on_and_ties_keep_the_order_of_the_file(tmp_path):
    data = load_items(write(tmp_path / "log.csv"), min_count=1)
    assert data.class_names == ["x", "y", "z"] and data.num_classes == 3 and data.split == "items"
    assert samples(data.train, data.class_names) == [(["y"], "z"), (["y"], "z")]
    assert samples(data.test, data.class_names) == [(["y", "z"], "x"), (["y", "z"], "x")]  # c has but one event
    assert data.train.labels.tolist() == [2, 2]


@pytest.mark.parametrize("separator", [",", ";", "\t", "::"])
@pytest.mark.parametrize("ending", ["log", "log.gz"])
def test_separators_headers_and_gzip_all_give_the_same(tmp_path, separator, ending):
    plain = load_items(write(tmp_path / "log.csv"), min_count=1)
    wide = [(item, 4.5, user, time) for user, item, time in EVENTS]
    header = separator.join(("movieId", "rating", "userId", "timestamp"))
    named = write(tmp_path / f"named.{ending}", wide, separator, header)
    bare = write(tmp_path / f"bare.{ending}", wide, separator)
    found = [
        load_items(named, ("userId", "movieId", "timestamp"), min_count=1),
        load_items(named, ("2", "0", "3"), min_count=1),
        load_items(bare, ("2", "0", "3"), min_count=1),
        load_items(write(tmp_path / f"three.{ending}", EVENTS, separator, separator.join("uit")), min_count=1),
    ]
    for data in found:
        assert data.class_names == plain.class_names
        for part in ("train", "test"):
            assert samples(getattr(data, part), "xyz") == samples(getattr(plain, part), "xyz")


def test_a_name_with_the_separator_in_quotes_and_dates(tmp_path):
    events = [("s", '"a, b"', "2014-04-07T10:51:09Z"), ("s", "c", "2014-04-07T10:51:08Z"), ("s", "d", "2014-04-08")]
    data = load_items(write(tmp_path / "log.csv", events), min_count=1)
    assert samples(data.test, data.class_names) == [(["c", "a, b"], "d")]
    assert time_of("1970-01-01T00:01:00") == time_of("1970-01-01T02:01:00+02:00") == time_of("60") == 60
    assert time_of("nan") is time_of("inf") is time_of("yesterday") is None


def test_rare_items_are_left_out_and_histories_are_cut(tmp_path):
    events = [("u", f"i{k % 4}", k) for k in range(20)] + [("u", "rare", 9.5), ("v", "rare", 1)]
    data = load_items(write(tmp_path / "log.csv", events), min_count=5, length=3)
    assert data.class_names == ["i0", "i1", "i2", "i3"]
    assert samples(data.test, data.class_names) == [(["i0", "i1", "i2"], "i3")]
    assert len(data.train) == 18 and samples(data.train, data.class_names)[0] == (["i0"], "i1")
    assert len(load_items(tmp_path / "log.csv", min_count=2).class_names) == 5


def test_batches_are_padded_and_asked_for_in_any_order(tmp_path):
    events = [(user, f"{k}", k) for user in "uv" for k in range(4)]
    data = load_items(write(tmp_path / "log.csv", events), min_count=1)
    (items, lengths), labels = data.train.batch(torch.tensor([1, 0, 3]))
    assert items.tolist() == [[0, 1], [0, 0], [0, 1]] and lengths.tolist() == [2, 1, 2] and labels.tolist() == [2, 1, 2]
    assert data.train.batch(torch.empty(0, dtype=torch.int64))[1].tolist() == []
    with pytest.raises(IndexError, match="index holds 4"):
        data.train.batch(torch.tensor([4]))


BROKEN = {
    "a,x,1\na,y,2\na,z,soon\n": "line 3, has the time 'soon'; it should be a number, or a date",
    "a,x,1\na,y\na,z,3\n": "line 2, has 2 fields; it should have 3",
    "a,x,1\na,,2\n": "line 2, has no item",
    ",x,1\n": "line 1, has no user",
    "a,x,1\na,\xff,2\n": "line 2, is not text in UTF-8",
    "a,x,1\na,x,2\nb,x,1\n": "has no user with 3 events of items that have 1",
    "a,x,4,1\n": "has 4 columns (a, x, 4, 1); say which are user, item and time, as columns=0,1,3",
    "<html><body>": "which is an HTML page",
    "": "which is empty",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_ends_with_one_sentence(tmp_path, text):
    path = tmp_path / "log.csv"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=re.escape(BROKEN[text])) as error:
        load_items(path, min_count=1)
    assert "log.csv" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("columns", [("0", "1"), ("0", "1", "1"), ("0", "1", "3"), ("user", "item", "time")])
def test_columns_that_are_not_there(tmp_path, columns):
    words = f"columns is {','.join(columns)}; it should be three different ones of .*a, x, 3"
    with pytest.raises(ValueError, match=words):
        load_items(write(tmp_path / "log.csv"), columns, 1)


def test_damaged_files_are_read_or_told(tmp_path):
    rng = random.Random(0)
    events = [(f"u{k % 9}", f"i{rng.randrange(5)}", k) for k in range(90)]
    for name in ("log.csv", "log.gz"):
        path = write(tmp_path / name, events)
        read, told = [], []
        for _, cut, content in damaged(path.read_bytes(), 150, seed=1):
            path.write_bytes(content)
            try:
                data = load_items(path, min_count=1)
                assert 2 <= data.num_classes <= 7 and int(data.test.labels.max()) < data.num_classes
                read.append(cut)
            except ValueError as error:
                assert name in str(error) and "\n" not in str(error)
                told.append(cut)
        assert len(told) > 20 and (name == "log.csv" or not any(read))  # a gzip that is cut is never whole
