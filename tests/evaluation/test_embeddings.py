"""embeddings.py: embeddings of whole data sets, and the model as it was before."""

import pytest
import torch
from torch import nn

from annsoftmax_ref.evaluation import embed, embed_all, evaluating


class Rows:
    """Sample k is the row (k, 1) with the label k % 3."""

    def __len__(self):
        return 7

    def batch(self, index):
        return torch.stack([index.float(), torch.ones(len(index))], dim=1), index % 3


def model():
    return nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5))


def test_embeddings_have_no_gradient_and_the_modes_come_back():
    net = model()
    net[0].eval()
    out = embed(net, torch.ones(5, 2))
    assert out.shape == (5, 4) and out.dtype == torch.float32 and not out.requires_grad
    torch.testing.assert_close(out, net[0](torch.ones(5, 2)), rtol=0.02, atol=0.02)  # nothing dropped
    assert net.training and not net[0].training and net[1].training
    with pytest.raises(RuntimeError), evaluating(net):
        assert not net[1].training and not torch.is_grad_enabled()
        raise RuntimeError
    assert net.training and not net[0].training and torch.is_grad_enabled()


def test_a_data_set_is_embedded_whole_in_its_order(monkeypatch):
    net = model()
    whole = embed_all(net, Rows())
    monkeypatch.setattr("annsoftmax_ref.evaluation.embeddings.CHUNK", 3)
    parts = embed_all(net, Rows())
    assert whole[0].shape == (7, 4) and whole[1].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert torch.equal(whole[1], parts[1])
    torch.testing.assert_close(whole[0], parts[0])
