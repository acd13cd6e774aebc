"""Images in a folder a class: ImageNet-1K and -21K as unpacked, Stanford Online Products, SKU photographs,
Products-10K, CASIA-WebFace and VGGFace2 as images, iNaturalist, and any set of one's own of this form:

    ROOT/class name/any file.jpg             a share of each class is held out for the test, drawn by a seed
    ROOT/train/class name/any file.jpg       with ROOT/val or ROOT/test (the first of them that is there) to test on

Only the files' names are in memory, about 30 bytes an image; an image is opened when a batch asks for it. So it is
then that a broken one is found: it is named in the log, and the next whole image to train on (or to test on, where it
was one of those) stands in its place from then on, with the label of its own. To open all of them beforehand would take
hours where files are many or far away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from annsoftmax_ref.checks import check_positive_int, check_share
from annsoftmax_ref.datasets.files import FileData, Part, check_index, decode_image, stack_images
from annsoftmax_ref.datasets.skipping import Skipped

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


class ImageFolder:
    """The images below ``root``/<class name>, classes and files in the order of their names' bytes.

    ``class_names`` fixes the numbers of the classes (default: all folders in ``root``). Hidden files and folders
    (".name") and files with other endings are passed over. ``size``: pixels a side; ``grey``: else RGB. ``skip``: so
    many images may be broken (default: a hundredth, at least 10). ``held_out`` [n] bool: the images to test on.
    Raises ValueError for a folder that is missing, a class without images and a class not in ``class_names``.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        class_names: Sequence[str] | None = None,
        size: int = 32,
        grey: bool = True,
        skip: int | None = None,
    ):
        self.size, self.grey = check_positive_int("size", size), grey
        self.root = Path(root)
        found = _class_folders(self.root)
        self.class_names = found if class_names is None else list(class_names)
        number = {name: k for k, name in enumerate(self.class_names)}
        # All names in one string of bytes: a list of a hundred million strings would take ten times the memory.
        names, ends, labels = bytearray(), [0], []
        for name in found:
            if name not in number:
                raise ValueError(
                    f"{self.root / name} is a class that the training folder lacks; remove it or add it there"
                )
            before = len(labels)
            for path in images_below(str(self.root / name), ""):
                names += os.fsencode(path)
                ends.append(len(names))
                labels.append(number[name])
            if len(labels) == before:
                raise ValueError(f"{self.root / name} holds no images ({', '.join(ENDINGS)}); fill or remove it")
        self._names, self._ends = bytes(names), np.array(ends, dtype=np.int64)
        self.labels = torch.tensor(labels, dtype=torch.int64)
        self.held_out = np.zeros(len(labels), dtype=bool)
        self.skipped, self._broken = Skipped(skip, len(labels), self.root), set()

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, row: int) -> Path:
        """The file of the image ``row``."""
        name = os.fsdecode(self._names[self._ends[row] : self._ends[row + 1]])
        return self.root / self.class_names[int(self.labels[row])] / name

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """index [b] int64 -> images uint8 [b, size, size], or [b, 3, size, size] in colour, and labels [b] int64.

        For one that is gone or not a whole image, the next that is whole stands, of those that are held out as it is
        or not. Raises ValueError, naming the last one, for more than may be skipped, or if no other is left.
        """
        found = [self._whole_image(int(row)) for row in check_index(index, len(self))]
        rows = torch.tensor([row for row, _ in found], dtype=torch.int64)
        return stack_images([image for _, image in found], self.size, self.grey), self.labels[rows]

    def _whole_image(self, row: int) -> tuple[int, np.ndarray]:
        """The first whole image from ``row`` on, as its row and pixels; after the last one comes the first."""
        for other in chain(range(row, len(self)), range(row)):
            if other in self._broken or self.held_out[other] != self.held_out[row]:
                continue
            path = self.path(other)
            try:
                return other, decode_image(read_image(path), str(path), self.size, self.grey)
            except ValueError as error:
                self._broken.add(other)
                self.skipped.add(error)
        raise ValueError(f"{self.root} has no whole image to stand for {self.path(row)}{self.skipped.last}")


def load_image_folder(
    root: str | os.PathLike,
    size: int = 32,
    grey: bool = True,
    held_out: float = 0.1,
    seed: int = 0,
    skip: int | None = None,
) -> FileData:
    """The images below ``root`` as train and test; see the module for the two layouts.

    held_out: without a folder to test on, the share of each class that is tested on, rounded; every class keeps
        an image to train on. Which ones, ``seed`` decides.
    skip: so many images may be broken, of train and of a test folder each, and each process counts those that it has
        read (default: a hundredth of them, at least 10).
    Raises ValueError for settings out of range and folders that give nothing to train or to test on.
    """
    check_share("held_out", held_out)
    root = Path(root)
    split = (root / "train").is_dir()
    train = ImageFolder(root / "train" if split else root, size=size, grey=grey, skip=skip)
    apart = next((root / name for name in ("val", "test") if split and (root / name).is_dir()), None)
    if apart is None:
        parts = _hold_out_of_each(train, held_out, seed)
    else:
        parts = train, ImageFolder(apart, train.class_names, size, grey, skip)
    return FileData(*parts, num_classes=len(train.class_names), class_names=train.class_names)


def _hold_out_of_each(images: ImageFolder, held_out: float, seed: int) -> tuple[Part, Part]:
    """At most all but one image of each class to the test; the images of a class lie together."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.zeros(len(images), dtype=torch.bool)
    start = 0
    for count in torch.bincount(images.labels).tolist():
        share = min(int(held_out * count + 0.5), count - 1)
        hidden[start + torch.randperm(count, generator=generator)[:share]] = True
        start += count
    if not hidden.any():
        raise ValueError(
            f"held_out is {held_out}, which is no image of any class in {images.root}; take a larger share, "
            "or add the folders train and val"
        )
    images.held_out = hidden.numpy()
    return tuple(Part(images, chosen.nonzero()[:, 0]) for chosen in (~hidden, hidden))


def _class_folders(root: Path) -> list[str]:
    if not root.is_dir():
        raise ValueError(f"folder is {root}, which is not a folder; it should hold a folder of images a class")
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    if len(names) < 2:
        raise ValueError(f"folder is {root}, which holds {len(names)} class folders; it should hold at least 2")
    return sorted(names, key=os.fsencode)


def images_below(folder: str, prefix: str) -> Iterator[str]:
    """Paths relative to the class folder. Links to folders are not followed, so no loop of them is walked."""
    with os.scandir(folder) as entries:
        entries = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: os.fsencode(e.name))
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from images_below(entry.path, f"{prefix}{entry.name}/")
        elif entry.name.lower().endswith(ENDINGS) and entry.is_file():
            yield prefix + entry.name


def read_image(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
