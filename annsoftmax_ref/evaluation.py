"""How good a trained model is: accuracy of its classes, and retrieval for classes it was not trained on."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from annsoftmax_ref.datasets.augment import to_float
from annsoftmax_ref.retrieval import recall_at_k

CHUNK = 1024  # drawings at a time


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself (else autocast to it would slow everything down)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return (
        device.type == "cpu"
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """The precision the backbone runs in, training and evaluation alike: bfloat16 where it is fast."""
    if bfloat16_is_fast(device):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()


@contextlib.contextmanager
def evaluating(*modules: nn.Module):
    """No gradients, evaluation mode; the modules' own modes come back afterwards."""
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.eval()
        with torch.no_grad():
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.train(mode)


def device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def embed(model: nn.Module, images: Tensor) -> Tensor:
    """images [n, 32, 32] uint8 -> embeddings [n, d] float32 (not normalised), without augmentation or gradient."""
    device = device_of(model)
    with evaluating(model), autocast(device):
        parts = [model(to_float(part.to(device))).float() for part in images.split(CHUNK)]
    return torch.cat(parts)


def accuracy(model: nn.Module, head: nn.Module, dataset, k: int = 1) -> float:
    """The part (0 to 1) of the samples whose own class is among the ``k`` classes of largest cosine, over all classes.

    ``dataset`` has ``len`` and ``batch(index) -> (images, labels)``. Whatever the head trained on, the test is exact.
    """
    hits = 0
    with evaluating(model, head):
        for index in torch.arange(len(dataset)).split(CHUNK):
            images, labels = dataset.batch(index)
            embeddings = embed(model, images)
            _, classes = head.topk(embeddings, k)
            hits += int((classes == labels.to(classes.device).unsqueeze(1)).sum())
    return hits / len(dataset)


def retrieval(model: nn.Module, dataset) -> float:
    """Recall at 1 (0 to 1): how often the nearest other drawing, by cosine, is of the same class.

    For classes that training did not see (``load_glyphs(split="embedding")``); needs no head. Drawings that are
    alone in their class cannot be found and are asked for nothing, though they may be (wrongly) found.
    """
    images, labels = dataset.batch(torch.arange(len(dataset)))
    return recall_at_k(embed(model, images), labels, ks=(1,), chunk=CHUNK)[1] or 0.0  # None: nothing to ask for
