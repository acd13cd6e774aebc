"""The backbone: a small convolutional network from a drawing to its embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from annsoftmax_ref.checks import check_positive_int


class ConvNet(nn.Module):
    """images [B, 1, 32, 32] float -> embeddings [B, embedding_size].

    Three convolutions halve the image to 16, 8 and 4 pixels a side (``width``, 2 ``width``, 4 ``width`` channels,
    each with batch normalisation and ReLU); one linear layer reads all of the last. The embedding is normalised over
    the batch and not scaled after it (as in ArcFace's networks), so that its cosines start well spread.
    ``seed`` sets the starting weights, whatever torch's global generator stands at. 0.36 million weights at
    the defaults.
    """

    def __init__(self, embedding_size: int = 128, width: int = 32, seed: int = 0):
        super().__init__()
        check_positive_int("embedding_size", embedding_size)
        check_positive_int("width", width)
        self.embedding_size = embedding_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.features = nn.Sequential(
                *_halving(1, width, kernel=5), *_halving(width, 2 * width), *_halving(2 * width, 4 * width)
            )
            self.embed = nn.Linear(4 * width * 4 * 4, embedding_size)
            self.normalise = nn.BatchNorm1d(embedding_size, affine=False)
        # Channels last is the layout that the CPU's and the GPU's convolutions are fastest in.
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        if images.dim() != 4 or images.shape[1:] != (1, 32, 32):
            raise ValueError(f"images has shape {list(images.shape)}; it should be [B, 1, 32, 32]")
        features = self.features(images.contiguous(memory_format=torch.channels_last))
        return self.normalise(self.embed(features.flatten(1)))


def _halving(channels: int, out: int, kernel: int = 3) -> tuple[nn.Module, ...]:
    # No bias: the normalisation takes it away again.
    return (
        nn.Conv2d(channels, out, kernel, stride=2, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )
