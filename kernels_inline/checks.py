"""What every op asks of its tensors before it passes them to C++ as pointers."""

from __future__ import annotations

import torch
from torch import Tensor


def check(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple) -> None:
    """ValueError, in one sentence, unless the tensor can be passed to C++ as a pointer to so many elements."""
    fits = tensor.dtype == dtype and tuple(tensor.shape) == tuple(shape) and tensor.is_contiguous()
    if not fits or tensor.device.type != "cpu":
        wanted = f"a contiguous {dtype} tensor of shape {list(shape)} on the CPU"
        raise ValueError(f"{name} is {described(tensor)}; it should be {wanted}")


def described(tensor: Tensor) -> str:
    layout = "" if tensor.is_contiguous() else f", strides {tensor.stride()}"
    return f"{tensor.dtype} of shape {list(tensor.shape)}{layout} on {tensor.device}"
