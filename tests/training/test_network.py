"""The backbones: shapes, starting weights, gradients."""

import pytest
import torch

from annsoftmax_ref.datasets import ItemHistory, SparseRows
from annsoftmax_ref.training.network import ConvNet, FeatureNet, SessionNet, TextNet, WordNet


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


@pytest.mark.parametrize("channels, size, last", [(3, 32, 4), (1, 112, 7), (3, 28, 7), (1, 8, 4), (1, 33, 5)])
def test_other_images(channels, size, last):
    model = ConvNet(16, 4, channels=channels, size=size)
    assert model(torch.rand(3, channels, size, size)).shape == (3, 16)
    assert model.features(torch.rand(1, channels, size, size)).shape[2:] == (last, last)
    with pytest.raises(ValueError, match=rf"it should be \[B, {channels}, {size}, {size}\]"):
        model(torch.rand(3, channels, size + 1, size))


def test_too_small_images():
    with pytest.raises(ValueError, match="size is 7; it should be at least 8"):
        ConvNet(16, 4, size=7)


def test_features_of_any_scale():
    model = FeatureNet(6, 16, hidden=8, seed=1)
    rows = torch.randn(50, 6)
    out = model(rows)
    assert out.shape == (50, 16)
    torch.testing.assert_close(model(1000 * rows + 3), out, rtol=1e-2, atol=1e-2)
    assert torch.equal(out, FeatureNet(6, 16, hidden=8, seed=1)(rows))


def points(*rows):
    lengths = torch.tensor([0, *map(len, rows)])
    pairs = [pair for row in rows for pair in row]
    return SparseRows(
        lengths.cumsum(0), torch.tensor([f for f, _ in pairs], dtype=torch.int64), torch.tensor([v for _, v in pairs])
    )


def test_texts_have_their_length_taken_out():
    model = TextNet(10, 16, hidden=8, seed=1).eval()
    some = points([(0, 3.0), (7, 4.0)], [], [(9, 0.5)])
    out = model(some)
    assert out.shape == (3, 16) and out.isfinite().all()
    vectors = model.vectors.weight
    sums = torch.stack([0.6 * vectors[0] + 0.8 * vectors[7], torch.zeros(8), vectors[9]])
    torch.testing.assert_close(out, model.layers(sums))
    out.square().sum().backward()
    assert vectors.grad[[0, 7, 9]].any(dim=1).all() and not vectors.grad[[1, 2, 8]].any()


def test_sessions_are_read_to_their_own_end_and_no_further():
    model = SessionNet(10, 16, width=4, hidden=8, seed=1).eval()
    history = ItemHistory(torch.tensor([[3, 7, 5], [9, 0, 0], [7, 3, 0]]), torch.tensor([3, 1, 2]))
    out = model(history)
    assert out.shape == (3, 16) and out.isfinite().all()
    for row, length, embedding in zip(*history, out, strict=True):
        alone = model(ItemHistory(row[:length].unsqueeze(0), length.view(1)))[0]
        torch.testing.assert_close(alone, embedding)
    out[1:].square().sum().backward()
    touched = model.vectors.weight.grad.any(dim=1)
    assert touched.nonzero()[:, 0].tolist() == [3, 7, 9]  # 0 fills up and counts for nothing


@pytest.mark.parametrize("kind", [FeatureNet, SessionNet, TextNet])
def test_wrong_sizes_of_the_others(kind):
    with pytest.raises(ValueError, match="embedding_size is 0"):
        kind(4, 0)
    with pytest.raises(TypeError, match="is 2.5"):
        kind(2.5, 4)


def test_words_of_a_window_of_one_are_their_vectors_and_of_more_depend_on_their_order():
    words = torch.tensor([[3, 1], [1, 3], [3, 3]])
    one, two = WordNet(5, 1, 16, seed=1), WordNet(5, 2, 16, hidden=8, seed=1)
    assert torch.equal(one(words[:, :1]), one.vectors.weight[[3, 1, 3]])
    out = two(words)
    assert out.shape == (3, 16) and not torch.equal(out[0], out[1])
    assert torch.equal(out, WordNet(5, 2, 16, hidden=8, seed=1)(words))
    out.square().sum().backward()
    assert (two.vectors.weight.grad.abs().sum(dim=1) > 0).tolist() == [False, True, False, True, False]
    with pytest.raises(ValueError, match="window is 0"):
        WordNet(5, 0)
