"""Augmentation of a batch of drawings in a few tensor operations: turn, scale, shear, shift, and noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from annsoftmax_ref.datasets.inputs import to_float


@dataclass(frozen=True)
class Augmentation:
    """How far a drawing may be changed; each amount is drawn evenly from -value to +value."""

    rotation: float = 5.0  # degrees
    scale: float = 0.08  # logarithm of the size, for width and height each
    shear: float = 0.15  # slant: columns moved a row, as in oblique faces
    shift: float = 1.0  # pixels, right and down each
    noise: float = 0.03  # standard deviation of what is added to every pixel (white is 1)

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """images uint8 [B, H, W] or [B, 3, H, W] -> [B, 1 or 3, H, W] float32; outside the image is empty (black).

        All four moves are one affine map, so each image is resampled once (Jaderberg et al. 2015, equation 1).
        ``generator`` is one of the CPU, wherever the images are: the same draws on every device.
        """
        images = to_float(images)
        batch, _, height, width = images.shape
        draw = (torch.rand(batch, 6, generator=generator) * 2 - 1).to(images.device)
        angle = draw[:, 0] * math.radians(self.rotation)
        cos, sin = angle.cos(), angle.sin()
        wide, high = (draw[:, 1] * self.scale).exp(), (draw[:, 2] * self.scale).exp()
        slant = draw[:, 3] * self.shear
        # From a place in the result to one in the drawing: turn @ shear @ scale, then the shift.
        right, down = draw[:, 4] * self.shift * 2 / width, draw[:, 5] * self.shift * 2 / height
        rows = [cos * wide, (cos * slant - sin) * high, right, sin * wide, (sin * slant + cos) * high, down]
        matrix = torch.stack(rows, dim=1).view(batch, 2, 3)
        grid = F.affine_grid(matrix, images.shape, align_corners=False)
        moved = F.grid_sample(images, grid, align_corners=False)
        if self.noise == 0:
            return moved
        grain = torch.randn(moved.shape, generator=generator).to(moved.device)
        return moved.add_(grain, alpha=self.noise)
