"""Texts to read words from: a file, a folder of .txt, .md and .py files, or what every machine with this package has.

The latter are the topics of Python's own ``help()`` and the docstrings of its standard library and of NumPy, half a
million words of technical English. Both are installed wherever this package is, so nothing is downloaded, and the same
versions of them give the same words: of the parts of Python that some systems leave out nothing is taken.
"""

from __future__ import annotations

import ast
import os
import platform
import sysconfig
from collections.abc import Collection, Iterator
from pathlib import Path
from pydoc_data import topics

import numpy as np

from annsoftmax_ref.datasets.cache import load_or_make
from annsoftmax_ref.datasets.files import check_file
from annsoftmax_ref.datasets.skipping import Skipped

ENDINGS = (".txt", ".md", ".py")
WANTED = "a text in UTF-8, or in UTF-16 with its mark at the start"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# Folders of the standard library that are tests, or that systems leave out, move or add.
NOT_READ = {"site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3"}
NOT_READ |= {"distutils", "ensurepip", "__pycache__"}
BETWEEN = "\0"  # texts in the cache's one array


def read_texts(path: str | os.PathLike, skip: int | None = None) -> list[str]:
    """The text of a file, whatever its ending, or of each file in a folder and its subfolders that ends as a text does.

    In the order of the paths; what begins with a dot is passed over. skip: so many files of a folder may be broken
    (``Skipped``). Raises ValueError for a path that is neither, a folder without texts and a file that is none.
    """
    if not os.path.exists(path):
        raise ValueError(f"path is {path}, where nothing is; it should be a text, or a folder of texts")
    if not os.path.isdir(path):
        return [read_text("path", path)]
    files = [file for file in _files_below(Path(path)) if file.suffix.lower() in ENDINGS]
    skipped, found = Skipped(skip, len(files), path), []
    for file in files:
        if file.stat().st_size == 0:  # an empty __init__.py is not broken
            continue
        try:
            found.append(read_text("file", file))
        except ValueError as error:
            skipped.add(error)
    if not found:
        endings = ", ".join(ENDINGS)
        raise ValueError(f"path is {path}, a folder without a text; it should hold files that end in {endings}")
    return found


def read_text(name: str, path: str | os.PathLike) -> str:
    """What a file says. ValueError if it is not text, with the byte where that is seen; ``name`` is the argument's."""
    path = check_file(name, path, WANTED)
    content = Path(path).read_bytes()
    encoding = "utf-16" if content.startswith(UTF_16) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is {path}, whose byte {error.start} is not of such; it should be {WANTED}") from error
    if BETWEEN in text:
        raise ValueError(f"{name} is {path}, which holds the character 0; it should be {WANTED}")
    return text


def python_texts(cache_dir: str | os.PathLike | None = None) -> list[str]:
    """Python's help topics, then docstrings of its standard library and of NumPy, each once; from the cache if they
    were gathered before by these versions. Some 6 s where they were not."""
    settings = {"python": platform.python_version(), "numpy": np.__version__, "version": 1}
    arrays = load_or_make("texts", settings, _gathered, cache_dir)
    return arrays["texts"].tobytes().decode().split(BETWEEN)


def _gathered() -> dict[str, np.ndarray]:
    found = [topics.topics[name] for name in sorted(topics.topics)]
    for folder in (sysconfig.get_path("stdlib"), Path(np.__file__).parent):
        for file in _files_below(Path(folder), NOT_READ):
            if file.suffix == ".py":
                found += docstrings(file.read_bytes())
    texts = BETWEEN.join(text.replace(BETWEEN, " ") for text in dict.fromkeys(found))
    return {"texts": np.frombuffer(texts.encode(errors="replace"), dtype=np.uint8)}


def docstrings(source: bytes) -> list[str]:
    """Of a Python file: its own, and those of its classes and functions."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    with_docs = (node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))
    return [text for node in with_docs if (text := ast.get_docstring(node))]


def _files_below(folder: Path, without: Collection[str] = ()) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in without and not name.startswith("."))
        yield from (Path(root) / name for name in sorted(files) if not name.startswith("."))
