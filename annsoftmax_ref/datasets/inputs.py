"""What a data set's ``batch`` gives, as a backbone reads it: in training, evaluation and measurements alike."""

from __future__ import annotations

import torch
from torch import Tensor


def are_images(inputs) -> bool:
    """Whether what ``batch`` gives are images: uint8 [B, H, W] or, in colour, [B, 3, H, W]."""
    return isinstance(inputs, Tensor) and inputs.dtype == torch.uint8


def to_float(images: Tensor) -> Tensor:
    """images uint8 [B, H, W] or, in colour, [B, 3, H, W] -> [B, 1 or 3, H, W] float32 in [0, 1], for a network."""
    return (images.unsqueeze(1) if images.dim() == 3 else images).float().div_(255)


def to_model(inputs, device: torch.device):
    """What ``batch`` gives as a backbone reads it, on the device: images in [0, 1], all else as it is."""
    if isinstance(inputs, Tensor):
        inputs = inputs.to(device)
        return to_float(inputs) if are_images(inputs) else inputs
    return type(inputs)(*(part.to(device) for part in inputs))
