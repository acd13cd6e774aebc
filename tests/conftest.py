"""What every test shares: one thread, fixed seeds, a cache folder of its own, and the `gpu` marker."""

import os
import random
import shutil
import tempfile

import numpy as np
import pytest
import torch

_own_cache = None


def pytest_configure(config):
    """Point the package's cache at a temporary folder, unless the caller chose one.

    This runs in the first process before xdist starts its workers. They inherit the variable, so data are
    made once for all of them.
    """
    global _own_cache
    torch.set_num_threads(1)  # results do not depend on the machine, and -n 2 does not oversubscribe it
    if "ANNSOFTMAX_CACHE" not in os.environ:
        _own_cache = tempfile.mkdtemp(prefix="annsoftmax-cache-")
        os.environ["ANNSOFTMAX_CACHE"] = _own_cache


def pytest_unconfigure(config):
    global _own_cache
    if _own_cache is not None:
        shutil.rmtree(_own_cache, ignore_errors=True)
        del os.environ["ANNSOFTMAX_CACHE"]
        _own_cache = None


def pytest_collection_modifyitems(items):
    """Files with slow tests come first: xdist hands out files in order, and at the end a long one lets others wait."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def fixed_global_seeds():
    """No test depends on what ran before it, even where a library draws from a global generator."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def registries():
    """What a test registers, an objective or a head, is gone after it."""
    from annsoftmax_ref.factory import DENSE, HEADS
    from annsoftmax_ref.objectives import OBJECTIVES

    known = [(names, names.copy()) for names in (OBJECTIVES, HEADS, DENSE)]
    yield
    for names, before in known:
        names.clear()
        names.update(before)


@pytest.fixture
def rng():
    """A NumPy generator with seed 0."""
    return np.random.default_rng(0)


@pytest.fixture
def generator():
    """A torch CPU generator with seed 0."""
    return torch.Generator().manual_seed(0)
