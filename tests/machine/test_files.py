"""machine/files.py: a file is there whole, or as it was."""

import os

import pytest

from annsoftmax_ref.machine.files import check_writable, replacing


def test_the_file_takes_its_place_at_the_end(tmp_path):
    path = tmp_path / "new" / "record.json"
    with replacing(path) as temporary:
        temporary.write_text("all of it")
        assert not path.exists() and temporary.suffix == ".json" and str(os.getpid()) in temporary.name
    assert path.read_text() == "all of it" and list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), replacing(path) as temporary:
        temporary.write_text("hal")
        raise RuntimeError("half way")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_told_beforehand(tmp_path):
    check_writable("json", tmp_path / "new" / "record.json")
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "record.json", tmp_path):
        with pytest.raises(ValueError, match=r"json is .*, which cannot be written \(.*\); name a file in a folder"):
            check_writable("json", path)
    assert not list((tmp_path / "new").iterdir())
