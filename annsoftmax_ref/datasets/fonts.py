"""The same data set from a folder of fonts: any .ttf, .otf and .ttc files, those of CJK included."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from annsoftmax_ref.datasets.drawing import read_faces
from annsoftmax_ref.datasets.glyphs import GlyphData, check_split, draw_files, split_data
from annsoftmax_ref.datasets.skipping import Skipped

ENDINGS = (".ttf", ".otf", ".ttc")


def load_fonts(
    folder: str | os.PathLike,
    held_out: Sequence[str] | None = None,
    min_faces: int | None = None,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
    seed: int = 0,
    split: str = "faces",
    skip: int | None = None,
) -> GlyphData:
    """Every character that at least ``min_faces`` faces in ``folder`` and below it draw (default: 4, or all of fewer).

    A face is named by its file without the ending, with ``#0``, ``#1``, ... in a collection. ``held_out`` names the
    faces to test on; left out, a quarter of them, drawn by ``seed``. Drawing, merging, caching and ``split``
    are those of ``load_glyphs``. skip: so many files may be no fonts that can be drawn (bitmaps, say); they are passed
    over and named in the log (default: a hundredth of the files, at least 10). Raises ValueError for more of them, a
    missing or empty folder, unknown names, and settings that leave nothing to train on.
    """
    check_split(split)
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"folder is {folder}, which is not a folder; it should hold .ttf, .otf or .ttc files")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    skipped, names = Skipped(skip, len(paths), folder), []
    for path in list(paths):
        try:
            names += [face.name for face in read_faces(path)]
        except ValueError as error:
            skipped.add(error)
            paths.remove(path)
    if len(names) < 2:
        raise ValueError(
            f"folder is {folder}, which holds {len(names)} font faces (.ttf, .otf, .ttc); "
            f"it should hold at least 2, one to train on and one to test on{skipped.last}"
        )
    min_faces = min(4, len(names)) if min_faces is None else min_faces
    if not 1 <= min_faces <= len(names):
        raise ValueError(f"min_faces is {min_faces}; it should be from 1 to {len(names)}, the faces in {folder}")
    if held_out is None:
        chosen = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))[: max(1, len(names) // 4)]
        held_out = [names[k] for k in sorted(chosen.tolist())]
    unknown = sorted(set(held_out) - set(names))
    if unknown:
        raise ValueError(f"held_out names {unknown[0]!r}; the faces in {folder} are {', '.join(names)}")
    if not 0 < len(set(held_out)) < len(names):
        raise ValueError(
            f"held_out names {len(set(held_out))} of the {len(names)} faces; it should leave some to "
            "train on and take some to test on"
        )
    data = split_data(draw_files("fonts", paths, min_faces, cache_dir, progress), held_out, split, seed)
    if data.num_classes < 2 or len(data.test) == 0:
        raise ValueError(
            f"folder is {folder}, whose faces share too few characters: {data.num_classes} classes and "
            f"{len(data.test)} test drawings with min_faces {min_faces} and held_out {list(held_out)}"
        )
    return data
