"""inputs.py: what a batch gives, as a backbone reads it."""

import torch

from annsoftmax_ref.datasets import SparseRows
from annsoftmax_ref.datasets.inputs import are_images, to_model

CPU = torch.device("cpu")


def test_images_come_as_floats_with_a_channel():
    grey = torch.tensor([0, 255], dtype=torch.uint8).repeat(3, 4, 2)  # [3, 4, 4]
    assert are_images(grey)
    read = to_model(grey, CPU)
    assert read.shape == (3, 1, 4, 4) and read.dtype == torch.float32 and set(read.unique().tolist()) == {0.0, 1.0}
    assert to_model(grey.unsqueeze(1).expand(3, 3, 4, 4), CPU).shape == (3, 3, 4, 4)
    assert grey.dtype == torch.uint8 and grey.max() == 255  # left as they were


def test_features_and_texts_come_as_they_are():
    features = torch.randn(3, 5)
    texts = SparseRows(torch.tensor([0, 2]), torch.tensor([1, 4]), torch.ones(2))
    assert not are_images(features) and not are_images(texts)
    assert torch.equal(to_model(features, CPU), features)
    read = to_model(texts, CPU)
    assert isinstance(read, SparseRows) and all(torch.equal(a, b) for a, b in zip(read, texts, strict=True))
