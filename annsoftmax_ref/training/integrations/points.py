"""Points around centres, one for each class, and networks for them: what the scripts beside this one are tried with."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

from annsoftmax_ref.training.network import seeded_weights

CLASSES, WIDTH, DIM = 500, 32, 64  # classes, numbers of a point, numbers of an embedding
TOKENS, WORDS = 8, 200  # of a text, and how many there are


def points(each: int = 8, seed: int = 0) -> TensorDataset:
    """(point [WIDTH], label), in no order, ``each`` of every class; by another seed others, around the same centres."""
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed + 1)
    labels = torch.arange(CLASSES).repeat(each)[torch.randperm(CLASSES * each, generator=generator)]
    return TensorDataset(centres[labels] + 0.3 * torch.randn(len(labels), WIDTH, generator=generator), labels)


def texts(each: int = 8, seed: int = 0) -> list[dict]:
    """{"input_ids": [TOKENS], "labels": class}: the words of the class, of which one is another one."""
    words = torch.randint(WORDS, (CLASSES, TOKENS), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed + 1)
    labels = torch.arange(CLASSES).repeat(each)[torch.randperm(CLASSES * each, generator=generator)]
    changed = torch.randint(TOKENS, (len(labels), 1), generator=generator)
    others = torch.randint(WORDS, (len(labels), 1), generator=generator)
    tokens = words[labels].scatter(1, changed, others)
    return [{"input_ids": row, "labels": label} for row, label in zip(tokens, labels, strict=True)]


def network(seed: int = 0, normalised: bool = False) -> nn.Sequential:
    """points [B, WIDTH] -> embeddings [B, DIM]; normalised: over the batch, in its hidden layer."""
    with seeded_weights(seed):
        middle = nn.BatchNorm1d(128) if normalised else nn.Identity()
        return nn.Sequential(nn.Linear(WIDTH, 128), middle, nn.ReLU(), nn.Linear(128, DIM))
