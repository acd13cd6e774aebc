"""CONTRIBUTING.md keeps its word: the data set of its page trains, and is a task of the command line."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from annsoftmax_ref import cli
from annsoftmax_ref.experiments.compare import compare
from annsoftmax_ref.experiments.tasks import LOADERS

ROOT = Path(__file__).resolve().parents[2]
PAGE = re.search(r"^## Add a data set\n(.*?)(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)[1]


@pytest.fixture
def contributed(tmp_path, monkeypatch):
    """The module that somebody made of the page's code, imported; forgotten afterwards."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(LOADERS)
    yield importlib.import_module("mine")
    sys.modules.pop("mine")
    LOADERS.clear()
    LOADERS.update(before)


def test_the_data_set_of_the_page_trains_and_is_a_task(contributed, tmp_path):
    (row,) = compare("clusters:300", ("ann",), rate=0.9, epochs=8, progress=False)
    losses = [epoch["loss"] for epoch in row["history"]]
    assert row["num_classes"] == 300 and losses[-1] < losses[0] and row["accuracy"] > 0.5
    record = tmp_path / "record.json"
    assert (
        cli.main(["compare", "--task", "clusters:50", "--heads", "full", "--epochs", "1", "--json", str(record)]) == 0
    )
    assert json.loads(record.read_text())["rows"][0]["num_classes"] == 50


def test_the_page_names_three_files_that_are_there():
    files = re.findall(r"^\d\. `([^`]+)`", PAGE, re.M)
    assert len(files) == 3 and [file for file in files if not (ROOT / file).exists()] == []
