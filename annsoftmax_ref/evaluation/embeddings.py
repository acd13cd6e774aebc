"""Embeddings of whole data sets, without gradient, in chunks."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from annsoftmax_ref.datasets.inputs import to_model
from annsoftmax_ref.machine.device import autocast, device_of

CHUNK = 1024  # drawings at a time


@contextlib.contextmanager
def evaluating(*modules: nn.Module):
    """No gradients, evaluation mode; afterwards each module, and each part of one, has the mode that it had."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def embed(model: nn.Module, inputs) -> Tensor:
    """n inputs (images uint8, features, ``SparseRows``) -> embeddings [n, d] float32 (not normalised), without
    augmentation or gradient."""
    device = device_of(model)
    parts = inputs.split(CHUNK) if isinstance(inputs, Tensor) else [inputs]
    with evaluating(model), autocast(device):
        return torch.cat([model(to_model(part, device)).float() for part in parts])


def embed_all(model: nn.Module, dataset) -> tuple[Tensor, Tensor]:
    """All samples of ``dataset`` -> embeddings [n, d] float32, labels [n] int64, on the model's device."""
    parts = [dataset.batch(index) for index in torch.arange(len(dataset)).split(CHUNK)]
    embeddings = torch.cat([embed(model, inputs) for inputs, _ in parts])
    return embeddings, torch.cat([labels for _, labels in parts]).to(embeddings.device)
