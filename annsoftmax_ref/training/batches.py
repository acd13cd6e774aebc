"""Batches: an epoch's order, and samples as a model reads them; the same for ``fit`` and for ``Trainer``."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from annsoftmax_ref.datasets.inputs import are_images, to_model
from annsoftmax_ref.training.recipe import Recipe


def steps_of(data, recipe: Recipe) -> int:
    """Steps of an epoch."""
    return recipe.steps_per_epoch or max(1, len(data.train) // recipe.batch_size)


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Of all that an epoch's order is drawn with."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0]))


def order_of_epoch(data, recipe: Recipe, generator: torch.Generator) -> list[Tensor]:
    """The batches of an epoch as index tensors; what is left over by whole ones waits for the next shuffle."""
    samples, size, steps = len(data.train), recipe.batch_size, steps_of(data, recipe)
    if recipe.steps_per_epoch is not None:
        return list(torch.randint(samples, (steps, size), generator=generator))
    return list(torch.randperm(samples, generator=generator).split(size))[:steps]


def make_batch(train, index: Tensor, recipe: Recipe, generator: torch.Generator, device: torch.device):
    """The samples ``index`` as the model reads them, images augmented, and their labels [B], on the device.

    generator: of the augmentation, and of a set that ``draws`` one of a sample's labels.
    """
    inputs, labels = train.batch(index, generator) if getattr(train, "draws", False) else train.batch(index)
    if recipe.augmentation and are_images(inputs):
        return recipe.augmentation(inputs.to(device), generator), labels.to(device)
    return to_model(inputs, device), labels.to(device)
