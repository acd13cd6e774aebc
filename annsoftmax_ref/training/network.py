"""The backbones: small networks from an image, a row of features, a sparse text or a session to its embedding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from annsoftmax_ref.checks import check_positive_int

LAST = 7  # pixels a side that the convolutions halve an image to, at most


class ConvNet(nn.Module):
    """images [B, channels, size, size] float -> embeddings [B, embedding_size].

    Convolutions halve the image until it has at most 7 pixels a side: 32 to 16, 8 and 4 (``width``, 2 ``width``,
    4 ``width`` channels, and so on, each with batch normalisation and ReLU); one linear layer reads all of the last.
    The embedding is normalised over the batch and not scaled after it (as in ArcFace's networks), so that its cosines
    start well spread.
    ``seed`` sets the starting weights, whatever torch's global generator stands at. 0.36 million weights at
    the defaults.
    """

    def __init__(self, embedding_size: int = 128, width: int = 32, seed: int = 0, channels: int = 1, size: int = 32):
        super().__init__()
        _check_sizes(embedding_size=embedding_size, width=width, channels=channels)
        if check_positive_int("size", size) <= LAST:
            raise ValueError(f"size is {size}; it should be at least {LAST + 1}, pixels a side")
        self.embedding_size = embedding_size
        self.shape = (channels, size, size)
        layers, out = [], width
        while size > LAST:
            layers.append((channels, out, 3 if layers else 5))
            channels, out, size = out, 2 * out, (size + 1) // 2
        with seeded_weights(seed):
            self.features = nn.Sequential(*(part for layer in layers for part in _halving(*layer)))
            self.embed = nn.Linear(channels * size * size, embedding_size)
            self.normalise = nn.BatchNorm1d(embedding_size, affine=False)
        # Channels last is the layout that the CPU's and the GPU's convolutions are fastest in.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        if images.dim() != 4 or images.shape[1:] != self.shape:
            raise ValueError(
                f"images has shape {list(images.shape)}; it should be [B, {', '.join(map(str, self.shape))}]"
            )
        features = self.features(images.contiguous(memory_format=torch.channels_last))
        return self.normalise(self.embed(features.flatten(1)))


class FeatureNet(nn.Module):
    """features [B, width] float of any scale -> embeddings [B, embedding_size]: one hidden layer, for features that
    another network made. They are normalised over the batch on their way in; the embedding as in ``ConvNet``."""

    def __init__(self, width: int, embedding_size: int = 128, hidden: int = 512, seed: int = 0):
        super().__init__()
        _check_sizes(width=width, embedding_size=embedding_size, hidden=hidden)
        self.embedding_size = embedding_size
        with seeded_weights(seed):
            self.layers = nn.Sequential(
                nn.BatchNorm1d(width, affine=False),
                nn.Linear(width, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(inplace=True),
                nn.Linear(hidden, embedding_size),
                nn.BatchNorm1d(embedding_size, affine=False),
            )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


class TextNet(nn.Module):
    """b sparse points (``datasets.SparseRows``) -> embeddings [b, embedding_size].

    A point is brought to length 1 (texts are of any) and summed up out of its features' vectors, ``hidden`` numbers
    each; then one layer as in ``FeatureNet``. The gradient of the vectors is dense: num_features * hidden numbers.
    """

    def __init__(self, num_features: int, embedding_size: int = 128, hidden: int = 256, seed: int = 0):
        super().__init__()
        _check_sizes(num_features=num_features, embedding_size=embedding_size, hidden=hidden)
        self.embedding_size = embedding_size
        with seeded_weights(seed):
            self.vectors = nn.EmbeddingBag(num_features, hidden, mode="sum", include_last_offset=True)
            self.layers = nn.Sequential(
                nn.BatchNorm1d(hidden),
                nn.ReLU(inplace=True),
                nn.Linear(hidden, embedding_size),
                nn.BatchNorm1d(embedding_size, affine=False),
            )

    def forward(self, points) -> Tensor:
        offsets, features, values = points
        row = torch.repeat_interleave(torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff())
        squares = torch.zeros(len(offsets) - 1, device=values.device).index_add(0, row, values.square())
        values = values / squares.sqrt().clamp(min=1e-12)[row]
        return self.layers(self.vectors(features, offsets, per_sample_weights=values))


class WordNet(nn.Module):
    """words [B, window] int64 below num_words -> embeddings [B, embedding_size].

    A window of one, as of skip-gram: the word's vector. Else the vectors of its words, ``hidden`` numbers each, go side
    by side through one hidden layer, as in Bengio et al. (JMLR 2003). The embedding is not normalised over the batch:
    what all samples have in common is how frequent words get their larger logits, in a head without biases.
    The gradient of the vectors is dense: num_words * hidden numbers.
    """

    def __init__(self, num_words: int, window: int, embedding_size: int = 128, hidden: int = 128, seed: int = 0):
        super().__init__()
        _check_sizes(num_words=num_words, window=window, embedding_size=embedding_size, hidden=hidden)
        self.embedding_size = embedding_size
        with seeded_weights(seed):
            self.vectors = nn.Embedding(num_words, embedding_size if window == 1 else hidden)
            self.layers = nn.Sequential(nn.Flatten())
            if window == 1:  # only a direction counts: a step of size lr turns one of length 1 by about lr
                nn.init.normal_(self.vectors.weight, std=embedding_size**-0.5)
            else:
                inner = nn.Linear(window * hidden, 2 * hidden)
                self.layers.extend([inner, nn.ReLU(inplace=True), nn.Linear(2 * hidden, embedding_size)])

    def forward(self, words: Tensor) -> Tensor:
        return self.layers(self.vectors(words))


class SessionNet(nn.Module):
    """b histories (``datasets.ItemHistory``) of ``num_items`` items -> embeddings [b, embedding_size]: a vector of
    ``width`` numbers an item, a GRU over them, as in GRU4Rec (Hidasi et al. 2016), and one layer on its last state.

    The vectors are its own, not the head's rows. Their gradient is dense: num_items * width numbers.
    """

    def __init__(self, num_items: int, embedding_size: int = 128, width: int = 64, hidden: int = 128, seed: int = 0):
        super().__init__()
        _check_sizes(num_items=num_items, embedding_size=embedding_size, width=width, hidden=hidden)
        self.embedding_size = embedding_size
        with seeded_weights(seed):
            self.vectors = nn.Embedding(num_items, width)
            self.recurrent = nn.GRU(width, hidden, batch_first=True)
            self.embed = nn.Linear(hidden, embedding_size)
            self.normalise = nn.BatchNorm1d(embedding_size, affine=False)

    def forward(self, history) -> Tensor:
        items, lengths = history
        steps = pack_padded_sequence(self.vectors(items), lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, last = self.recurrent(steps)
        return self.normalise(self.embed(last[0]))


@contextlib.contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """What torch draws in the block, starting weights, is by ``seed``; its global generator stands as before then."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        check_positive_int(name, size)


def _halving(channels: int, out: int, kernel: int) -> tuple[nn.Module, ...]:
    # No bias: the normalisation takes it away again.
    return (
        nn.Conv2d(channels, out, kernel, stride=2, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )
