"""The data that most runs here train on."""

import pytest
from training_runs import CLASSES

from annsoftmax_ref.datasets import load_glyphs


@pytest.fixture(scope="package")
def data():
    return load_glyphs(progress=False).subset(CLASSES)
