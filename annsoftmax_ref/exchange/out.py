"""A head's rows for nn.Linear, NumPy, FAISS and safetensors."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from annsoftmax_ref.checks import check_instance, check_positive_int
from annsoftmax_ref.every_row import parts
from annsoftmax_ref.exchange.packages import optional
from annsoftmax_ref.head import SoftmaxHead
from annsoftmax_ref.list_sizes import default_nlist, default_nprobe
from annsoftmax_ref.machine.files import check_writable, replacing
from annsoftmax_ref.row_parameter import catch_up, unwatched
from annsoftmax_ref.rows import unit_rows

SAMPLE = 64  # rows for each list that FAISS learns its centroids from


def to_linear(head: SoftmaxHead) -> nn.Linear:
    """An nn.Linear(d, N), in float32 at least and on the head's device, of which linear(F.normalize(x)) are the logits.

    Its rows are scale * unit rows, its bias the head's, if it has one. ValueError where classes are split.
    """
    check_instance("head", head, SoftmaxHead)._check_whole("to_linear")
    kind = torch.promote_types(head.weight.dtype, torch.float32) if head.weight.itemsize > 1 else torch.float32
    linear = nn.utils.skip_init(
        nn.Linear, head.embedding_size, head.num_classes, bias=head.bias is not None, device=head.weight.device
    ).to(kind)
    with torch.no_grad():
        for part, rows in _unit_parts(head):
            linear.weight[part] = head.objective.scale * rows
        if head.bias is not None:
            linear.bias.copy_(head.bias)
    return linear


def to_numpy(head: SoftmaxHead, path: str | os.PathLike) -> None:
    """Write the classes' directions [N, d], float32, length 1, as a .npy file, in parts; whole or not there.

    A bias is not in it. ValueError where classes are split, or path cannot be written.
    """
    check_instance("head", head, SoftmaxHead)._check_whole("to_numpy")
    check_writable("path", path)
    with replacing(path) as temporary:
        shape = (head.num_classes, head.embedding_size)
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        for part, rows in _unit_parts(head):
            array[part] = rows.float().cpu().numpy()
        array.flush()


def to_faiss(head: SoftmaxHead, kind: str = "flat", nlist: int | None = None):
    """A FAISS index of inner products over the classes' directions, whose ids are the classes.

    kind: "flat", IndexFlatIP, exact: for queries of length 1 what ``head.topk`` finds; "ivf", IndexIVFFlat with nlist
    lists and nprobe set (default: ``list_sizes``), whose centroids are learnt from 64 rows a list. ImportError without
    faiss; ValueError for another kind, a head with a bias, which would not be in it, and where classes are split.
    """
    check_instance("head", head, SoftmaxHead)._check_whole("to_faiss")
    if kind not in ("flat", "ivf"):
        raise ValueError(f"kind is {kind!r}; it should be 'flat' or 'ivf'")
    if head.bias is not None:
        raise ValueError("head has a bias, which inner products with unit rows do not have; use to_linear or head.topk")
    faiss = optional("faiss", "faiss-cpu")
    index = faiss.IndexFlatIP(head.embedding_size)
    if kind == "ivf":
        nlist = default_nlist(head.num_classes) if nlist is None else check_positive_int("nlist", nlist)
        nlist = min(nlist, head.num_classes)
        index = faiss.IndexIVFFlat(index, head.embedding_size, nlist, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = default_nprobe(nlist)
        drawn = torch.randperm(head.num_classes, generator=torch.Generator().manual_seed(0))[: SAMPLE * nlist]
        catch_up(head.weight)
        with torch.no_grad(), unwatched():
            index.train(unit_rows(head.weight[drawn.to(head.weight.device)]).float().cpu().numpy())
    for _, rows in _unit_parts(head):
        index.add(rows.float().cpu().numpy())
    return index


def to_safetensors(head: SoftmaxHead, path: str | os.PathLike) -> None:
    """Write "weight" [N, d] as it is, in the head's dtype, and "bias" [N] where there is one; whole or not there.

    Metadata: scale and the objective's class. ImportError without the package safetensors; ValueError where classes
    are split, or path cannot be written.
    """
    check_instance("head", head, SoftmaxHead)._check_whole("to_safetensors")
    save_file = optional("safetensors.torch").save_file
    check_writable("path", path)
    tensors = {name: tensor.detach().contiguous() for name, tensor in head.named_parameters(recurse=False)}
    metadata = {"format": "pt", "scale": repr(head.objective.scale), "objective": type(head.objective).__name__}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


def _unit_parts(head: SoftmaxHead) -> Iterator[tuple[slice, Tensor]]:
    """Which classes, and their directions [n, d], up to date."""
    catch_up(head.weight)
    for part in parts(*head.weight.shape):
        with torch.no_grad(), unwatched():
            rows = unit_rows(head.weight[part])
        yield part, rows
