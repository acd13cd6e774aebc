"""The cache of drawn fonts: where it is, that it is whole, and what it says when it is not."""

from pathlib import Path

import numpy as np
import pytest

from annsoftmax_ref.datasets import load_glyphs
from annsoftmax_ref.datasets.cache import cache_folder, load_or_make


def arrays():
    return {"a": np.arange(1000), "names": np.array(["x", "yz"])}


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("ANNSOFTMAX_CACHE", str(tmp_path / "mine"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("given") == Path("given")
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("ANNSOFTMAX_CACHE")
    assert cache_folder() == tmp_path / "xdg" / "annsoftmax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "annsoftmax"


def test_made_once_and_made_anew_for_other_settings(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return arrays()

    first = load_or_make("thing", {"v": 1}, make, tmp_path)
    second = load_or_make("thing", {"v": 1}, make, tmp_path)
    assert len(calls) == 1 and all(np.array_equal(first[k], second[k]) for k in ("a", "names"))
    load_or_make("thing", {"v": 2}, make, tmp_path)
    assert len(calls) == 2 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "foreign"])
def test_a_broken_file_is_named(tmp_path, damage):
    load_or_make("thing", {}, arrays, tmp_path)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "flipped":
        middle = content.index(b"a.npy") + 200
        content[middle] ^= 0xFF
        path.write_bytes(content)
    else:
        np.savez(path, other=np.arange(3))
    with pytest.raises(ValueError, match=rf"the cache file {path} is broken .*delete it"):
        load_or_make("thing", {}, arrays, tmp_path)


def test_an_unwritable_folder_is_named_before_any_work(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    called = []
    with pytest.raises(OSError, match=rf"cache_dir is {blocker}/cache, which cannot be written"):
        load_or_make("thing", {}, lambda: called.append(1), blocker / "cache")
    with pytest.raises(OSError, match="cache_dir is .*cannot be written"):
        load_glyphs(blocker / "cache", progress=False)
    assert not called


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def fail(file, **content):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="No space left"):
        load_or_make("thing", {}, arrays, tmp_path)
    assert not list(tmp_path.iterdir())
