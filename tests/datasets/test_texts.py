"""texts.py: files and folders as they come, and Python's own documentation."""

import pydoc_data.topics
import re

import numpy as np
import pytest

from annsoftmax_ref.datasets import texts
from annsoftmax_ref.datasets.texts import docstrings, python_texts, read_text, read_texts


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_is_read_in_the_encodings_that_it_may_have(tmp_path, encoding):
    path = tmp_path / "book"
    path.write_bytes("Žluťoučký kůň\n你好".encode(encoding))
    assert read_texts(path) == ["Žluťoučký kůň\n你好"]


@pytest.mark.parametrize(
    "content, words",
    [
        ("naïve".encode("latin-1"), "whose byte 2 is not of such; it should be a text in UTF-8"),
        ("abc".encode("utf-16") + b"x", "whose byte 8 is not of such"),
        ("abc".encode("utf-16-le"), "holds the character 0"),
        (b"", "which is empty"),
        (b"<!doctype html><html>", "an HTML page"),
        (b"PK\x03\x04abc", "a zip archive"),
    ],
)
def test_what_is_no_text_is_told_in_one_sentence(tmp_path, content, words):
    (tmp_path / "book.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^path is .*book\.txt.*{re.escape(words)}") as caught:
        read_text("path", tmp_path / "book.txt")
    assert "\n" not in str(caught.value)


def test_a_folder_gives_its_texts_in_order_and_names_what_is_broken(tmp_path, caplog):
    for name, content in {
        "b.md": b"second",
        "a/z.py": b"third",
        "tests/d.txt": b"fourth",
        "a.TXT": b"first",
        "others/c.rst": b"not read",
        ".git/x.txt": b"not read",
        "a/empty.py": b"",
        "a/bad.txt": b"\xff",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert read_texts(tmp_path) == ["first", "second", "third", "fourth"]
    (message,) = caplog.messages
    assert "skipped (1 of at most 10): file is" in message and "bad.txt" in message
    with pytest.raises(ValueError, match="skip is 0, but .* has more broken files"):
        read_texts(tmp_path, skip=0)
    with pytest.raises(ValueError, match=r"a folder without a text; it should hold files that end in \.txt"):
        read_texts(tmp_path / "others")
    with pytest.raises(
        ValueError, match="path is .*nowhere, where nothing is; it should be a text, or a folder of texts"
    ):
        read_texts(tmp_path / "nowhere")


def test_docstrings_are_those_of_a_file_its_classes_and_functions():
    source = b'"""Of the file."""\nclass A:\n    """Of A."""\n    def f(self):\n        """Of f."""\n        x = "no"\n'
    assert docstrings(source) == ["Of the file.", "Of A.", "Of f."]


def test_pythons_documentation_is_gathered_once(tmp_path, monkeypatch):
    """Here of two small folders in place of the standard library and NumPy; a text that is there twice is read once."""
    for name in ("python", "numpy"):
        (tmp_path / name / "tests").mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text(f'"""Of {name}."""\ndef f():\n    """Of both."""\n')
        (tmp_path / name / "tests" / "t.py").write_text('"""Not read."""\n')
    monkeypatch.setattr(texts.sysconfig, "get_path", lambda name: tmp_path / "python")
    monkeypatch.setattr(np, "__file__", str(tmp_path / "numpy" / "__init__.py"))
    first = python_texts(tmp_path / "cache")
    topics = pydoc_data.topics.topics
    assert first == [*dict.fromkeys(topics[name] for name in sorted(topics)), "Of python.", "Of both.", "Of numpy."]
    monkeypatch.setattr(texts, "_gathered", None)  # from the cache now
    assert python_texts(tmp_path / "cache") == first
