"""What a data set's ``batch`` gives, as a backbone reads it."""

from __future__ import annotations

import torch
from torch import Tensor

from annsoftmax_ref.datasets.augment import to_float


def are_images(inputs) -> bool:
    """Whether what ``batch`` gives are images: uint8 [B, H, W] or, in colour, [B, 3, H, W]."""
    return isinstance(inputs, Tensor) and inputs.dtype == torch.uint8


def to_model(inputs, device: torch.device):
    """What ``batch`` gives as a backbone reads it, on the device: images in [0, 1], all else as it is."""
    if isinstance(inputs, Tensor):
        inputs = inputs.to(device)
        return to_float(inputs) if are_images(inputs) else inputs
    return type(inputs)(*(part.to(device) for part in inputs))
