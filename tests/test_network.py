"""The backbone: shapes, starting weights, gradients."""

import pytest
import torch

from annsoftmax_ref.network import ConvNet


def test_shapes_and_gradients():
    model = ConvNet(embedding_size=24, width=8)
    out = model(torch.rand(5, 1, 32, 32))
    assert out.shape == (5, 24)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_embeddings_are_normalised_over_the_batch():
    out = ConvNet(embedding_size=16, width=8)(torch.rand(200, 1, 32, 32))
    torch.testing.assert_close(out.mean(0), torch.zeros(16), rtol=0, atol=1e-4)
    torch.testing.assert_close(out.var(0, unbiased=False), torch.ones(16), rtol=0, atol=1e-2)


def test_seed_decides_the_weights_and_leaves_the_global_generator():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, same, other = ConvNet(16, 8, seed=1), ConvNet(16, 8, seed=1), ConvNet(16, 8, seed=2)
    assert torch.equal(torch.rand(3), expected)
    pairs = list(zip(first.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)


def test_size_at_the_defaults():
    assert 300_000 < sum(p.numel() for p in ConvNet().parameters()) < 400_000


@pytest.mark.parametrize("shape", [(4, 32, 32), (4, 3, 32, 32), (4, 1, 28, 28)])
def test_wrong_images(shape):
    with pytest.raises(ValueError, match=r"images has shape .*should be \[B, 1, 32, 32\]"):
        ConvNet(16, 8)(torch.zeros(shape))


@pytest.mark.parametrize("bad, kind", [(0, ValueError), (-3, ValueError), (2.5, TypeError), (True, TypeError)])
def test_wrong_sizes(bad, kind):
    with pytest.raises(kind, match="embedding_size is"):
        ConvNet(bad)
    with pytest.raises(kind, match="width is"):
        ConvNet(16, bad)
