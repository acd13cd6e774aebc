"""Which device to compute on, in what precision, and waiting for it; other processes that compute, too."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
from collections.abc import Iterator

import torch
from torch import nn

logger = logging.getLogger(__name__)

PRECISIONS = ("auto", "bf16", "fp32")
_precision = contextvars.ContextVar("precision", default="auto")


def find_device(name: str) -> torch.device:
    """``auto`` is the GPU if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and not (name.split(":")[0] == "cuda" and torch.cuda.is_available()):
        raise ValueError(f"device is {name!r}; it should be auto or cpu, or cuda where torch can use a GPU")
    return torch.device(name)


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself (else autocast to it would slow everything down)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return (
        device.type == "cpu"
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def half_of(precision: str, device: torch.device) -> bool:
    """Whether one of ``PRECISIONS`` means bfloat16 on the device."""
    return bfloat16_is_fast(device) if precision == "auto" else precision == "bf16"


@contextlib.contextmanager
def in_precision(name: str) -> Iterator[None]:
    """What ``autocast`` gives in the block: "bf16", "fp32", or "auto"."""
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}; it should be one of {', '.join(PRECISIONS)}")
    before = _precision.set(name)
    try:
        yield
    finally:
        _precision.reset(before)


def autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """The precision the backbone runs in, training and evaluation alike: bfloat16 where it is fast."""
    if half_of(_precision.get(), device):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


def device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def wait_for(device: torch.device) -> None:
    """Until the device has done all that it was given: a GPU's work goes on after a call has returned."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def warn_of_processes() -> None:
    """Once, a warning where there are several processes, and a head that does not know of the others.

    Inside DistributedDataParallel it does not have to: its gradients are averaged.
    """
    if nn.parallel.DistributedDataParallel._active_ddp_module is None:
        _warn_of_processes()


@functools.cache
def _warn_of_processes() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        count = torch.distributed.get_world_size()
        if count > 1:
            logger.warning(
                "there are %d processes, and each trains this head by itself: its weights are not kept equal or split; "
                "with a process_group its classes are split",
                count,
            )
