"""CONTRIBUTING.md keeps its word: the objective and the selector of its pages train, and its lists are short."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from annsoftmax_ref import cli, make_head, make_objective
from annsoftmax_ref.experiments import records
from annsoftmax_ref.experiments.compare import compare

ROOT = Path(__file__).resolve().parents[2]
PAGES = dict(
    re.findall(r"^## (Add an? [\w ']+)\n(.*?)(?=^## |\Z)", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
)


def block(page):
    """The page's code."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGES[page], re.M | re.S)
    return code


@pytest.fixture
def features(tmp_path):
    """A task of 600 classes in 8 dimensions, three samples each."""
    rng = np.random.default_rng(0)
    centres, labels = rng.standard_normal((600, 8)), rng.permutation(np.arange(1800) % 600)
    np.save(tmp_path / "features.npy", (centres[labels] + 0.2 * rng.standard_normal((1800, 8))).astype(np.float32))
    np.save(tmp_path / "labels.npy", labels)
    return f"features:{tmp_path}"


@pytest.fixture
def contributed(tmp_path, monkeypatch, registries):
    """The module that somebody made of a page's code."""
    monkeypatch.syspath_prepend(tmp_path)

    def module(page):
        (tmp_path / "mine.py").write_text(block(page))
        return importlib.import_module("mine")

    yield module
    sys.modules.pop("mine", None)


def test_the_objective_of_the_page_trains_and_is_known_to_the_command_line(contributed, features, tmp_path):
    kind = contributed("Add an objective").GrowingMargin
    assert type(make_objective("growing")) is kind and make_objective("growing", margin=0.3).margin == 0.3
    (row,) = compare(features, ("ann",), "growing", rate=0.5, epochs=3, progress=False)
    losses = [epoch["loss"] for epoch in row["history"]]
    assert row["objective"] == "growing" and losses[-1] < losses[0]
    record = tmp_path / "record.json"
    call = ["compare", "--task", features, "--objective", "growing", "--heads", "full", "--epochs", "1"]
    assert cli.main([*call, "--json", str(record)]) == 0
    assert [row["objective"] for row in records.read_record(record)["rows"]] == ["growing"]


def test_the_selector_of_the_page_trains_and_is_known_to_the_command_line(contributed, features, tmp_path):
    kind = contributed("Add a selector").RecentClasses
    head = make_head("recent", 40, 8, rate=0.25)
    first, second = torch.arange(4), torch.arange(20, 25)
    for labels in (first, second):
        head(torch.randn(len(labels), 8), labels).backward()
    assert type(head.selector) is kind and head.selector.recent.tolist() == [20, 21, 22, 23, 24, 0, 1, 2, 3, -1]
    (row,) = compare(features, ("recent",), rate=0.5, epochs=3, progress=False)
    losses = [epoch["loss"] for epoch in row["history"]]
    assert row["head"] == "recent" and losses[-1] < losses[0]
    record = tmp_path / "record.json"
    call = ["compare", "--task", features, "--heads", "recent", "full", "--rate", "0.5", "--epochs", "1"]
    assert cli.main([*call, "--json", str(record)]) == 0
    assert [row["head"] for row in records.read_record(record)["rows"]] == ["recent", "full"]


@pytest.mark.parametrize("page", PAGES)
def test_at_most_three_files_are_named_and_they_are_there(page):
    files = re.findall(r"^\d\. `([^`]+)`", PAGES[page], re.M)
    assert 1 <= len(files) == len(re.findall(r"^\d\. ", PAGES[page], re.M)) <= 3
    of_an_op = [file.replace("STEM", "lists").replace("STAGE", "index") for file in files]
    assert [file for file in of_an_op if not (ROOT / file).exists()] == []
