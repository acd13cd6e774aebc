"""experiments/predictor.py: what cannot be predicted on (runs to predictions: tests/commands/test_predict.py)."""

from types import SimpleNamespace

import pytest
import torch

from annsoftmax_ref.datasets import SparseRows
from annsoftmax_ref.experiments.jobs import Job, job_of_settings
from annsoftmax_ref.experiments.predictor import Predictor

SPARSE, WORDS = SparseRows(*(torch.zeros(1) for _ in SparseRows._fields)), torch.zeros(2, 4, dtype=torch.int64)


@pytest.mark.parametrize("inputs", [SPARSE, WORDS], ids=["sparse texts", "words"])
def test_texts_are_refused_but_their_embeddings_are_read(tmp_path, inputs):
    data = SimpleNamespace(train=SimpleNamespace(batch=lambda index: (inputs, index)))
    predictor = Predictor(Job(task="xmc:a", dim=4), 1, data, torch.nn.Identity(), None)
    with pytest.raises(ValueError, match="task is 'xmc:a', whose inputs predict cannot read"):
        predictor.open(tmp_path / "a.npy", False, None)
    with pytest.raises(ValueError, match="a.npy, which is not a file; it should be features .n, 4., .npy"):
        predictor.open(tmp_path / "a.npy", True, None)


def test_a_checkpoint_s_settings_are_of_a_job():
    job = Job(task="glyphs", rate=0.3, options={"nprobe": 4}, batch=7)
    again = job_of_settings({**job.same, "seed": 5, "batch": 7, "steps": 990, "samples": 12})
    assert again.same == job.same and (again.seed, again.batch, again.steps) == (5, 7, None)
