"""A backbone with its head as one ONNX file, for those who serve without this package or torch."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from annsoftmax_ref.checks import check_instance, check_k
from annsoftmax_ref.exchange.out import to_linear
from annsoftmax_ref.exchange.packages import optional
from annsoftmax_ref.head import SoftmaxHead
from annsoftmax_ref.machine.files import check_writable

MOST = 1_900_000_000  # bytes of weights in the file itself: an ONNX file has 2 GB at most


def to_onnx(
    head: SoftmaxHead, path: str | os.PathLike, backbone: nn.Module, example: Tensor, k: int | None = None
) -> None:
    """Write backbone and exact head as an ONNX model: input "inputs" [B, ...] for any B, output "logits" [B, N].

    example: a batch of the backbone's input, of one sample or more; with ``nn.Identity()`` as backbone the model is one
    of embeddings. k: the outputs are "cosines" and "classes" [B, k] instead, as ``head.topk`` gives them. Dropout and
    the like are as in ``eval`` mode, and the head is computed in float32, whatever its dtype. Weights of more than 1.9
    GB lie in a file of their own that must stay beside the model, its name with .data behind it. Both are written
    elsewhere first and then renamed, the weights before the model. ImportError without onnx and onnxscript; ValueError
    where classes are split, for a path that cannot be written and embeddings of another size than the head's.
    """
    check_instance("head", head, SoftmaxHead)._check_whole("to_onnx")
    check_instance("backbone", backbone, nn.Module)
    check_instance("example", example, Tensor)
    if k is not None:
        check_k(k, head.num_classes)
    optional("onnx")
    optional("onnxscript")
    check_writable("path", path)
    model = Served(backbone, head, k, example.device)
    with _evaluating(model):
        program = _exported(model, example, ["logits"] if k is None else ["cosines", "classes"])
        _save(program, Path(path), sum(tensor.nbytes for tensor in model.state_dict().values()) > MOST)


class Served(nn.Module):
    """What is exported: inputs -> logits, or the k largest cosines and their classes."""

    def __init__(self, backbone: nn.Module, head: SoftmaxHead, k: int | None, device: torch.device):
        super().__init__()
        self.backbone, self.linear = backbone, to_linear(head).to(device, torch.float32)
        self.k, self.scale = k, head.objective.scale

    def forward(self, inputs: Tensor):
        logits = self.linear(F.normalize(self.backbone(inputs).float()))
        if self.k is None:
            return logits
        values, classes = logits.topk(self.k)
        return values / self.scale, classes


@contextlib.contextmanager
def _evaluating(model: Served) -> Iterator[None]:
    """The backbone's modules in eval mode, and afterwards as they were."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _exported(model: Served, example: Tensor, outputs: list[str]) -> torch.onnx.ONNXProgram:
    if len(example) == 1:
        example = torch.cat([example, example])  # torch takes a size of 1 for one that never changes
    with torch.no_grad():
        found = list(model.backbone(example).shape)
    wanted = [len(example), model.linear.in_features]
    if found != wanted:
        raise ValueError(
            f"backbone gives embeddings {found} of example; they should be {wanted}, as the head takes them"
        )
    batch = {0: torch.export.Dim("batch")}
    names = dict(input_names=["inputs"], output_names=outputs)
    with _quiet():
        return torch.onnx.export(model, (example,), **names, dynamic_shapes=(batch,), dynamo=True, verbose=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter tells of itself: packages that it would support, names that it is to give up."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _save(program: torch.onnx.ONNXProgram, target: Path, apart: bool) -> None:
    """The model names the file of its weights, so both are written under their own names, in a folder of their own."""
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}.", dir=target.parent) as folder:
        program.save(Path(folder) / target.name, external_data=apart)
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == target.name):
            os.replace(file, target.with_name(file.name))
