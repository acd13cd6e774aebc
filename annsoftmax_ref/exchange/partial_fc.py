"""A head's rows from the files that InsightFace's arcface_torch leaves, one a rank."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from annsoftmax_ref.exchange.into import Source, broken_is_refused, load_from
from annsoftmax_ref.head import SoftmaxHead

RANK_FILE = re.compile(r"checkpoint_gpu_(\d+)\.pt")

Paths = str | os.PathLike | Iterable[str | os.PathLike]


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

    load_from(head, opened)


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
    with broken_is_refused("files", path, 'a file with {"state_dict_softmax_fc": {"weight": [n, d]}}'):
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        weight = state["state_dict_softmax_fc"]["weight"] if isinstance(state, dict) else None
        if not isinstance(weight, Tensor) or weight.dim() != 2 or not weight.is_floating_point():
            raise ValueError("no matrix")
        return weight.detach()
