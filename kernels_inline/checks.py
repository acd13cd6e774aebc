"""What every op asks of its tensors before it passes them to a kernel as pointers."""

from __future__ import annotations

import torch
from torch import Tensor

DEVICES = ("cpu", "cuda")  # that kernels run on; all tensors of a call are on the same one (dispatch.call sees to it)


def check(name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int | str, ...]) -> None:
    """ValueError, in one sentence, unless the tensor can be passed to a kernel as a pointer to so many elements.

    shape: an axis of any length is a word, as in ("N", "d").
    """
    fits = tensor.dtype == dtype and tensor.is_contiguous() and tensor.dim() == len(shape)
    if fits:  # a loop: this is asked some 80 times a step, and a generator expression takes three times as long
        for n, have in zip(shape, tensor.shape, strict=True):
            if n != have and not isinstance(n, str):
                fits = False
    if not fits or tensor.device.type not in DEVICES:
        wanted = f"a contiguous {dtype} tensor of shape [{', '.join(map(str, shape))}] on the CPU or a CUDA device"
        raise ValueError(f"{name} is {described(tensor)}; it should be {wanted}")


# Of rows of a weight; a launcher is given the number of theirs.
ROW_KINDS = (torch.float32, torch.bfloat16, torch.float8_e4m3fn)


def check_rows(name: str, tensor: Tensor, shape: tuple[int | str, ...], kinds: int = len(ROW_KINDS)) -> int:
    """``check`` of the rows of a weight, in one of the first ``kinds`` of ROW_KINDS -> its number there."""
    known = ROW_KINDS[:kinds]
    kind = known.index(tensor.dtype) if tensor.dtype in known else 0
    check(name, tensor, known[kind], shape)
    return kind


def gradient_kind(rows: Tensor) -> torch.dtype:
    """What the gradient of rows of a weight is in: float32 beside float32, else bfloat16."""
    return torch.bfloat16 if rows.dtype == torch.float8_e4m3fn else rows.dtype


def described(tensor: Tensor) -> str:
    layout = "" if tensor.is_contiguous() else f", strides {tensor.stride()}"
    return f"{tensor.dtype} of shape {list(tensor.shape)}{layout} on {tensor.device}"
