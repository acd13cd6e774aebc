"""Glyphs: one class a character, drawn by matplotlib's own DejaVu fonts, so real and always at hand.

Every character that at least 4 of the 12 main faces draw (Sans, Sans Mono and Serif; each regular, bold, oblique
and bold oblique), 32x32 grey: about 5,200 classes and 43,000 drawings, made in some seconds and then cached.

The test drawings are of faces that training never sees: one face of each family and each in another style
(``HELD_OUT``), always the same. Every class keeps at least 3 training drawings and has a test drawing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib
import numpy as np
import PIL
import torch
from PIL import features
from torch import Tensor

from annsoftmax_ref.datasets import drawing
from annsoftmax_ref.datasets.cache import load_or_make

FORMAT = 1  # counts up when the drawings or the file's layout change
STYLES = ("", "-Bold", "-Oblique", "-BoldOblique")
FACES = (
    [f"DejaVuSans{s}" for s in STYLES]
    + [f"DejaVuSansMono{s}" for s in STYLES]
    + [f"DejaVuSerif{s.replace('Oblique', 'Italic')}" for s in STYLES]
)
HELD_OUT = ("DejaVuSans-Oblique", "DejaVuSansMono-Bold", "DejaVuSerif-Italic")
MIN_FACES = 4
UNSEEN_PART = 0.2  # of the classes, kept out of training when split="embedding"


@dataclass
class ImageSet:
    """images [n, 32, 32] uint8 (ink 255), labels [n] int64, faces [n] int64 (index into ``face_names``)."""

    images: Tensor
    labels: Tensor
    faces: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """index [b] int64 -> images [b, 32, 32] uint8, labels [b] int64."""
        return self.images[index], self.labels[index]

    def select(self, keep: Tensor) -> ImageSet:
        """The drawings where ``keep`` [n] bool holds (or those of an index [m] int64)."""
        return ImageSet(self.images[keep], self.labels[keep], self.faces[keep])


@dataclass
class GlyphData:
    """A data set of drawings.

    ``train`` has the classes 0 .. num_classes - 1. With split "faces" ``test`` has the same classes in faces that
    were held out; with split "embedding" it has classes that ``train`` lacks, numbered from num_classes on.
    ``class_names`` gives the first character of each class, ``members`` all of them.
    """

    train: ImageSet
    test: ImageSet
    num_classes: int
    class_names: list[str]
    members: list[str]
    face_names: list[str]
    held_out: tuple[str, ...]
    split: str

    def subset(self, num_classes: int) -> GlyphData:
        """The first ``num_classes`` classes alone: a smaller problem for a test or a first try (split "faces")."""
        if self.split != "faces" or not 1 <= num_classes <= self.num_classes:
            raise ValueError(
                f"num_classes is {num_classes} and the split {self.split!r}; they should be 1 to "
                f"{self.num_classes} and 'faces'"
            )
        train, test = (part.select(part.labels < num_classes) for part in (self.train, self.test))
        return replace(
            self,
            train=train,
            test=test,
            num_classes=num_classes,
            class_names=self.class_names[:num_classes],
            members=self.members[:num_classes],
        )

    def drawing_of(self, label: int) -> Tensor:
        """A drawing [32, 32] uint8 of the class: its first one in training, else in test."""
        part = self.train if label < self.num_classes else self.test
        return part.images[part.labels == label][0]


def load_glyphs(
    cache_dir: str | os.PathLike | None = None, progress: bool = True, seed: int = 0, split: str = "faces"
) -> GlyphData:
    """The glyphs; drawn at the first call, from the cache folder after that.

    ``split="faces"``: a classifier's split, test on faces held out (always ``HELD_OUT``).
    ``split="embedding"``: a fifth of the characters, drawn by ``seed``, is left out of training whole and
    makes the test set, in all faces.
    Raises ValueError for a broken cache file and OSError for a cache folder that cannot be written.
    """
    check_split(split)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    paths = [folder / f"{name}.ttf" for name in FACES]
    arrays = draw_files("glyphs", paths, MIN_FACES, cache_dir, progress)
    return split_data(arrays, HELD_OUT, split, seed)


def draw_files(name: str, paths: Sequence[Path], min_faces: int, cache_dir, progress: bool) -> dict[str, np.ndarray]:
    """``drawing.draw_classes`` of the font files, cached; the key holds all that the pixels depend on."""

    def make() -> dict[str, np.ndarray]:
        faces = [face for path in paths for face in drawing.read_faces(path)]
        made = drawing.draw_classes(faces, min_faces, progress)
        return {**made, "face_names": np.array([face.name for face in faces])}

    settings = {
        "format": FORMAT,
        "pillow": PIL.__version__,
        "freetype": features.version("freetype2"),
        "drawing": [drawing.SIZE, drawing.FONT_SIZE, drawing.BASELINE, drawing.PLACEHOLDER],
        "min_faces": min_faces,
        "fonts": [[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in paths],
    }
    return load_or_make(name, settings, make, cache_dir)


def split_data(arrays: dict[str, np.ndarray], held_out: Sequence[str], split: str, seed: int) -> GlyphData:
    """Arrays of ``draw_classes`` -> train and test, with labels without gaps.

    With split "faces", a class with fewer than 2 training drawings is left out of both.
    """
    face_names = [str(name) for name in arrays["face_names"]]
    members = [str(m) for m in arrays["members"]]
    whole = ImageSet(*(torch.from_numpy(arrays[k]) for k in ("images", "labels", "faces")))
    if split == "faces":
        hidden = torch.tensor([name in held_out for name in face_names])[whole.faces]
        least = min(2, len(face_names) - len(held_out))
        order = (torch.bincount(whole.labels[~hidden], minlength=len(members)) >= least).nonzero()[:, 0]
        num_classes = len(order)
    else:
        generator = torch.Generator().manual_seed(seed)
        shuffled = torch.randperm(len(members), generator=generator)
        num_unseen = round(UNSEEN_PART * len(members))
        unseen, seen = shuffled[:num_unseen].sort().values, shuffled[num_unseen:].sort().values
        order, num_classes = torch.cat([seen, unseen]), len(seen)
        hidden = torch.isin(whole.labels, unseen)
    number = torch.full((len(members),), -1)
    number[order] = torch.arange(len(order))
    whole.labels = number[whole.labels]
    kept = [members[k] for k in order.tolist()]
    return GlyphData(
        train=whole.select(~hidden & (whole.labels >= 0)),
        test=whole.select(hidden & (whole.labels >= 0)),
        num_classes=num_classes,
        class_names=[m[0] for m in kept],
        members=kept,
        face_names=face_names,
        held_out=tuple(held_out),
        split=split,
    )


def check_split(split: str) -> None:
    if split not in ("faces", "embedding"):
        raise ValueError(f"split is {split!r}; it should be 'faces' or 'embedding'")
