"""Weights in and out: a head's rows from nn.Linear, NumPy, PartialFC and safetensors, and into them and FAISS.

Only a row's direction enters a head's logits, scale * cosine (+ bias). ``load_*`` write rows with the lengths that they
have, which matter to the optimizer alone (a step turns a short row further), in the head's own dtype; to a head in 8
bits they are brought to length 1 first. They look at all of it before they change anything, a part at a time, and raise
ValueError or TypeError in one sentence. A head's bias becomes the one that is given, or 0. Index and optimizer notice
what is written (``row_parameter``); momentum that an optimizer has gathered stays, so load before you train. Where
classes are split, all processes call ``load_*`` together, each takes its own rows, and what one refuses all refuse.

``to_*`` bring rows that lag behind their optimizer up to date first, and need all classes in one process.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from annsoftmax_ref.checks import check_instance
from annsoftmax_ref.every_row import parts
from annsoftmax_ref.head import SoftmaxHead
from annsoftmax_ref.list_sizes import default_nlist, default_nprobe
from annsoftmax_ref.machine.files import check_writable, replacing
from annsoftmax_ref.row_parameter import catch_up, unwatched
from annsoftmax_ref.rows import unit_rows, widened

RANK_FILE = re.compile(r"checkpoint_gpu_(\d+)\.pt")
SAMPLE = 64  # rows for each list that FAISS learns its centroids from

Paths = str | os.PathLike | Iterable[str | os.PathLike]


class Source(NamedTuple):
    """Rows that are to be loaded: their name in error messages, shape, and read(first, last) -> [last - first, d]."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[int, int], Tensor]
    bias: Tensor | None = None


def load_linear(head: SoftmaxHead, linear: nn.Linear) -> None:
    """Write the rows of linear.weight [N, d], and its bias [N] if it has one, into ``head``.

    linear(F.normalize(x)) are then the head's logits if the rows had the length ``head.objective.scale``; of other
    lengths only the direction is kept in the logits. ValueError for another shape, rows that are zero or not finite,
    and a bias where the head has none.
    """

    def opened() -> Source:
        weight = check_instance("linear", linear, nn.Linear).weight.detach()
        bias = None if linear.bias is None else linear.bias.detach()
        return Source("linear.weight", tuple(weight.shape), lambda first, last: weight[first:last], bias)

    _load(head, opened)


def load_numpy(head: SoftmaxHead, array: np.ndarray | str | os.PathLike) -> None:
    """Write array [N, d] of floating-point numbers, an array, a memory map or the path of a .npy file, into ``head``.

    It is read in parts of some 64 MB; no second copy of the whole is made. ValueError or TypeError for a file that is
    missing or broken, another shape or kind, and rows that are zero or not finite.
    """

    def opened() -> Source:
        values = _mapped(array) if isinstance(array, (str, os.PathLike)) else check_instance("array", array, np.ndarray)
        if values.dtype.kind != "f":
            raise TypeError(f"array is of type {values.dtype}; it should hold floating-point numbers")
        native = values.dtype.newbyteorder("=")
        return Source("array", values.shape, lambda first, last: torch.from_numpy(values[first:last].astype(native)))

    _load(head, opened)


def load_partial_fc(head: SoftmaxHead, files: Paths) -> None:
    """Write the class centres that InsightFace's arcface_torch saved into ``head``.

    files: the folder of ``checkpoint_gpu_0.pt`` .. ``checkpoint_gpu_{P-1}.pt``, or these files in any order. Each has
    {"state_dict_softmax_fc": {"weight": [n, d]}}, n = N // P, one more for the first N % P ranks (train_v2.py and
    partial_fc_v2.py of deepinsight/insightface, recognition/arcface_torch; they write them with ``save_all_states``).
    Any number of ranks will do, whatever the head's own. Files are mapped, not read whole, and run no code. ValueError
    for a file that is missing or broken, other shapes, and rows that are zero or not finite.
    """

    def opened() -> Source:
        shards = [_centres(path) for path in _rank_files(files)]
        dims, sizes = {shard.shape[1] for shard in shards}, [len(shard) for shard in shards]
        total, ranks = sum(sizes), len(sizes)
        wanted = [total // ranks + (rank < total % ranks) for rank in range(ranks)]
        if len(dims) > 1 or sizes != wanted:
            raise ValueError(
                f"files have weights of shapes {[list(shard.shape) for shard in shards]}, which are not of one head "
                f"split over {ranks} ranks; they should be all files of one run"
            )
        starts = [sum(sizes[:rank]) for rank in range(ranks)]

        def read(first: int, last: int) -> Tensor:
            pairs = zip(starts, shards, strict=True)
            return torch.cat([shard[max(first - start, 0) : max(last - start, 0)] for start, shard in pairs])

        return Source("files", (total, dims.pop()), read)

    _load(head, opened)


def load_safetensors(head: SoftmaxHead, path: str | os.PathLike) -> None:
    """Write "weight" [N, d], and "bias" [N] if there is one, of a safetensors file into ``head``, in parts.

    What ``to_safetensors`` of a head of the same dtype wrote comes back to the last bit. ImportError without the
    package; ValueError for a file that is missing or broken, other shapes, rows that are zero or not finite, and a
    bias where the head has none.
    """

    def opened() -> Source:
        library = _optional("safetensors")
        with _broken_is_refused("path", path, "a safetensors file with weight [N, d]", library.SafetensorError):
            file = library.safe_open(os.fspath(path), framework="pt")
            rows = file.get_slice("weight")
            bias = file.get_tensor("bias") if "bias" in file.keys() else None  # noqa: SIM118, it is no dict
            return Source("weight", tuple(rows.get_shape()), lambda first, last: rows[first:last], bias)

    _load(head, opened)


def to_linear(head: SoftmaxHead) -> nn.Linear:
    """An nn.Linear(d, N), in float32 at least and on the head's device, of which linear(F.normalize(x)) are the logits.

    Its rows are scale * unit rows, its bias the head's, if it has one. ValueError where classes are split.
    """
    head._check_whole("to_linear")
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
    head._check_whole("to_numpy")
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
    head._check_whole("to_faiss")
    if kind not in ("flat", "ivf"):
        raise ValueError(f"kind is {kind!r}; it should be 'flat' or 'ivf'")
    if head.bias is not None:
        raise ValueError("head has a bias, which inner products with unit rows do not have; use to_linear or head.topk")
    faiss = _optional("faiss", "faiss-cpu")
    index = faiss.IndexFlatIP(head.embedding_size)
    if kind == "ivf":
        nlist = min(nlist or default_nlist(head.num_classes), head.num_classes)
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
    head._check_whole("to_safetensors")
    save_file = _optional("safetensors.torch").save_file
    check_writable("path", path)
    tensors = {name: tensor.detach().contiguous() for name, tensor in head.named_parameters(recurse=False)}
    metadata = {"format": "pt", "scale": repr(head.objective.scale), "objective": type(head.objective).__name__}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)


@torch.no_grad()
def _load(head: SoftmaxHead, opened: Callable[[], Source]) -> None:
    """Look at all rows that are to be this process's, then write them."""
    first = 0 if check_instance("head", head, SoftmaxHead).shards is None else head.shards.first
    with _refused_by_all(head):
        source = opened()
        _check_shapes(head, source)
        for part in parts(*head.weight.shape):
            _check_rows(source.name, _kept(head, source, part, first), first + part.start)
    for part in parts(*head.weight.shape):
        head.weight[part].copy_(_kept(head, source, part, first))
    if head.bias is not None:
        head.bias.copy_(0 if source.bias is None else source.bias[first : first + len(head.bias)])


def _kept(head: SoftmaxHead, source: Source, part: slice, first: int) -> Tensor:
    """The rows as the head will hold them."""
    rows, kind = source.read(first + part.start, first + part.stop), head.weight.dtype
    if kind.itemsize == 1 and rows.dtype != kind:  # 8 bits have few exponents: lengths of their own do not fit
        rows = F.normalize(rows.float(), dim=1)
    return rows.to(kind)


def _check_shapes(head: SoftmaxHead, source: Source) -> None:
    wanted = (head.num_classes, head.embedding_size)
    if tuple(source.shape) != wanted:
        raise ValueError(f"{source.name} has shape {list(source.shape)}; it should be {list(wanted)}, as the head's")
    if source.bias is None:
        return
    if head.bias is None:
        raise ValueError(f"{source.name} comes with a bias, and head has none; make the head with bias=True")
    if source.bias.shape != wanted[:1] or not source.bias.isfinite().all():
        raise ValueError(f"bias has shape {list(source.bias.shape)}; it should be [{wanted[0]}], every number finite")


def _check_rows(name: str, rows: Tensor, first: int) -> None:
    """rows [n, d], those of class ``first`` on: each has a direction, as the head would hold it."""
    wide = widened(rows)
    wrong = ~(wide.isfinite().all(dim=1) & (wide != 0).any(dim=1))
    if wrong.any():
        row = first + int(wrong.nonzero()[0])
        raise ValueError(f"{name} has a row (row {row}) that is zero, NaN or infinite in {rows.dtype}; none should be")


@contextlib.contextmanager
def _refused_by_all(head: SoftmaxHead) -> Iterator[None]:
    """Where classes are split, an error of one process is raised on all."""
    error = None
    try:
        yield
    except Exception as found:  # raised below, once the others know
        error = found
    if head.shards is not None:
        failures = head.shards.total(torch.tensor(float(error is not None), device=head.weight.device), "loading")
        if error is None and failures > 0:
            error = ValueError("weights were refused by another process, which says why; nothing has been changed")
    if error is not None:
        raise error


@contextlib.contextmanager
def _broken_is_refused(name: str, path: str | os.PathLike, wanted: str, *kinds: type[Exception]) -> Iterator[None]:
    """ValueError where a file is not there, or is not what is wanted."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError, *kinds) as error:
        state = "broken or something else" if Path(path).is_file() else "not a file that is there"
        raise ValueError(f"{name} is {os.fspath(path)}, which is {state}; it should be {wanted}") from error


def _mapped(path: str | os.PathLike) -> np.ndarray:
    with _broken_is_refused("array", path, "a whole .npy file"):
        return np.lib.format.open_memmap(path, mode="r")


def _rank_files(files: Paths) -> list[Path]:
    """In the order of ranks, none left out."""
    if isinstance(files, (str, os.PathLike)):
        files = Path(files).glob("checkpoint_gpu_*.pt") if Path(files).is_dir() else [files]
    paths = [Path(path) for path in files]
    found = {int(match[1]): path for path in paths if (match := RANK_FILE.fullmatch(path.name))}
    if not paths or len(found) < len(paths) or sorted(found) != list(range(len(found))):
        raise ValueError(
            f"files are {sorted(path.name for path in paths)}; they should be checkpoint_gpu_0.pt to "
            "checkpoint_gpu_{P-1}.pt, or a folder of these, each rank once"
        )
    return [found[rank] for rank in range(len(found))]


def _centres(path: Path) -> Tensor:
    """The weight [n, d] in one rank's file, mapped."""
    with _broken_is_refused("files", path, 'a file with {"state_dict_softmax_fc": {"weight": [n, d]}}'):
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        weight = state["state_dict_softmax_fc"]["weight"] if isinstance(state, dict) else None
        if not isinstance(weight, Tensor) or weight.dim() != 2 or not weight.is_floating_point():
            raise ValueError("no matrix")
        return weight.detach()


def _unit_parts(head: SoftmaxHead) -> Iterator[tuple[slice, Tensor]]:
    """Which classes, and their directions [n, d], up to date."""
    for part in parts(*head.weight.shape):
        with torch.no_grad(), unwatched():
            catch_up(head.weight)
            rows = unit_rows(head.weight[part])
        yield part, rows


def _optional(module: str, package: str | None = None):
    """The module; ImportError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = package or module.partition(".")[0]
        raise ImportError(f"this needs the package {package}; install it with: pip install {package}") from error
