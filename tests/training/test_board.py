"""training/board.py: scalars for TensorBoard; where it is not installed, one sentence."""

import sys

import pytest

from annsoftmax_ref.training.board import EVERY, Board
from annsoftmax_ref.training.history import Epoch


def test_where_tensorboard_is_missing_a_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="log is .*, and TensorBoard is not installed; pip install tensorboard"):
        Board(tmp_path / "log")


def test_the_scalars_are_there(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = Board(tmp_path)
    for step in range(1, 2 * EVERY + 1):
        board.on_step(step, 10.0 / step, 0.5)
    board.on_epoch(2 * EVERY, Epoch(1, 2.0, 3.0, 0.25, 4.0, 0.5))
    board.on_epoch(2 * EVERY, Epoch(2, 2.0, 1.0, None, 4.0, 0.5))
    board.close()
    read = reader.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in read.Scalars("train/loss")] == [(10, 1.0), (20, 0.5)]
    assert [e.value for e in read.Scalars("epoch/accuracy")] == [0.25]
    assert [e.value for e in read.Scalars("epoch/loss")] == [3.0, 1.0]
