"""Skips the cells tagged `gpu` on a machine without CUDA; their stored outputs stay in the notebook."""

import pytest
import torch


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        cell = getattr(item, "cell", None)  # nbval's items have one; ordinary tests do not
        if cell is not None and "gpu" in cell.metadata.get("tags", []):
            item.add_marker(pytest.mark.skip(reason="this cell is tagged gpu, and there is no CUDA device"))
