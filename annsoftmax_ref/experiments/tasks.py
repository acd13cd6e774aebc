"""Tasks by their names on the command line: the data, and the backbone that suits them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from annsoftmax_ref.datasets import (
    ItemHistory,
    SparseRows,
    VerificationPairs,
    load_fonts,
    load_glyphs,
    load_image_folder,
    load_items,
    load_memmap,
    load_pairs,
    load_record_io,
    load_words,
    load_xmc,
    make_items,
    zipf_subset,
)
from annsoftmax_ref.datasets.inputs import are_images
from annsoftmax_ref.training.network import ConvNet, FeatureNet, SessionNet, TextNet, WordNet

NAMES = (
    "glyphs, glyphs:unseen, glyphs:zipf, pairs:NUMBER_OF_CLASSES, fonts:FOLDER, folder:PATH, records:PATH, "
    "features:FOLDER, xmc:TRAIN[,TEST], words[:FILE_OR_FOLDER], items, items:NUMBER_OF_ITEMS or "
    "items:FILE[,columns=USER,ITEM,TIME]"
)
ZIPF_EXPONENT = 1.0
SETTING = re.compile(r",(?:(size|skip|min_count|length)=(\d+)|(colour))$")
COLUMNS = re.compile(r",columns=(.+?)(?=$|,(?:min_count|length)=\d+)")
WORDS = {"mode": str, "pairs": str, "subsample": float}  # of words, with the kinds of their values
WORDS |= dict.fromkeys(("vocabulary", "window", "min_count", "skip"), int)
WORD_SETTING = re.compile(rf"(?:^|,)({'|'.join(WORDS)})=([^,]*)$")


def load_task(task: str):
    """A data set (``annsoftmax_ref.datasets``) by its name; the split is the same whatever a run is seeded with.

    ``glyphs``: known characters in unseen faces. ``glyphs:unseen``: characters that training did not see.
    ``glyphs:zipf``: as ``glyphs``, with class sizes after Zipf's law. ``pairs:NUMBER_OF_CLASSES``: pairs of characters.
    ``fonts:FOLDER``: as ``glyphs``, from font files. ``folder:PATH``: a folder of images a class. Both with ``,skip=5``
    at the end where so many files may be broken (else a hundredth, at least 10). ``records:PATH``: InsightFace's .rec
    and .idx (PATH with or without the ending, or the folder of train.rec). It and ``folder`` also with ``,size=112``
    (pixels a side, else 32) and ``,colour`` (else grey). ``features:FOLDER``: features.npy and labels.npy in it.
    ``xmc:TRAIN[,TEST]``: files of sparse texts. ``words``: the next word in Python's own documentation, and
    ``words:PATH``: in a text file, or a folder of .txt, .md and .py files. Both with ``,mode=skipgram``,
    ``,vocabulary=20000``, ``,window=4``, ``,min_count=5``, ``,subsample=0.001``, ``,pairs=FILE`` (and, of a folder,
    ``,skip=5``): ``load_words`` says what these are; ``words:mode=skipgram`` is without a path.
    ``items``, ``items:NUMBER_OF_ITEMS``: made sessions, the next item as class. ``items:FILE``: recorded ones, also
    with ``,columns=0,1,3`` (of user, item and time, or the header's names), ``,min_count=5`` (items with fewer events
    are left out) and ``,length=50`` (the latest items, which the model sees).
    Raises ValueError for a name that is none and for files that are missing or broken.
    """
    name, _, detail = task.partition(":")
    if name == "pairs" and (not detail or detail.isdecimal()):
        return load_pairs(int(detail or 100_000))
    if name == "glyphs" and detail in GLYPHS:
        return GLYPHS[detail]()
    if name == "items" and (not detail or detail.isdecimal()):
        return make_items(int(detail)) if detail else make_items()
    if name in LOADERS and (detail or task == "words"):
        return LOADERS[name](detail)
    raise ValueError(f"task is {task!r}; it should be {NAMES}")


def without_skip(task: str) -> str:
    """The task's name without how many files may be skipped, which changes none of the data that are read."""
    name, _, detail = task.partition(":")
    return re.sub(r",skip=\d+(?=,|$)", "", task) if name in ("fonts", "folder", "words") else task


def _load_fonts(detail: str):
    path, settings = _settings(detail, "skip")
    return load_fonts(path, **settings)


def _load_folder(detail: str):
    path, settings = _settings(detail, "skip", "size", "colour")
    return load_image_folder(path, **settings)


def _load_records(detail: str):
    path, settings = _settings(detail, "size", "colour")
    return load_record_io(path if os.path.isdir(path) or path.endswith(".rec") else path + ".rec", **settings)


def _load_features(detail: str):
    """The number of classes is one more than the largest label, so all labels are read once, a part at a time."""
    features, labels = Path(detail) / "features.npy", Path(detail) / "labels.npy"
    for path in (features, labels):
        if not path.is_file():
            raise ValueError(f"features is {detail}, which has no file {path.name}; it should hold both .npy files")
    load_memmap(features, labels, num_classes=1)  # the files are whole and of one length, or this tells
    mapped = np.load(labels, mmap_mode="r")
    largest = max(int(mapped[start : start + (1 << 22)].max()) for start in range(0, len(mapped), 1 << 22))
    if largest < 1:
        raise ValueError(f"{labels} has no label above {largest}; it should have 2 classes at least")
    return load_memmap(features, labels, num_classes=largest + 1)


def _load_xmc(detail: str):
    train, _, test = detail.partition(",")
    return load_xmc(train, test or None)


def _load_words(detail: str):
    settings: dict = {}
    while found := WORD_SETTING.search(detail):
        name, value = found.groups()
        try:
            settings[name] = WORDS[name](value)
        except ValueError as error:
            raise ValueError(f"{name} is {value!r}; it should be a number") from error
        detail = detail[: found.start()]
    return load_words(detail or None, **settings)


def _load_items(detail: str):
    named = COLUMNS.search(detail)
    columns = named[1].split(",") if named else None
    path, settings = _settings(COLUMNS.sub("", detail), "min_count", "length")
    return load_items(path, columns, **settings)


def _settings(detail: str, *known: str) -> tuple[str, dict]:
    """``PATH,size=112,colour`` -> the path and its loader's arguments, of those ``known``; a task so names the data."""
    settings: dict = {}
    while (found := SETTING.search(detail)) and (found[1] or found[3]) in known:
        settings |= {"grey": False} if found[3] else {found[1]: int(found[2])}
        detail = detail[: found.start()]
    return detail, settings


GLYPHS = {
    "": load_glyphs,
    "unseen": lambda: load_glyphs(split="embedding"),
    "zipf": lambda: zipf_subset(load_glyphs(), ZIPF_EXPONENT, seed=0),
}
LOADERS = {
    "fonts": _load_fonts,
    "folder": _load_folder,
    "records": _load_records,
    "features": _load_features,
    "xmc": _load_xmc,
    "words": _load_words,
    "items": _load_items,
}


def make_model(data, embedding_size: int, seed: int = 0) -> nn.Module:
    """The backbone for what ``data.train.batch`` gives: ``ConvNet`` for images of its size and channels, ``TextNet``
    for sparse texts, ``WordNet`` for words, ``SessionNet`` for sessions, ``FeatureNet`` for features [B, d]. Its output
    is [B, embedding_size]."""
    sample = sample_of(data)
    if isinstance(sample, SparseRows):
        return TextNet(data.num_features, embedding_size, seed=seed)
    if isinstance(sample, ItemHistory):
        return SessionNet(data.num_classes, embedding_size, seed=seed)
    if are_images(sample):
        size, grey = form_of(sample)
        return ConvNet(embedding_size, seed=seed, channels=1 if grey else 3, size=size)
    if sample.dtype == torch.int64:
        return WordNet(data.num_classes + 1, sample.shape[1], embedding_size, seed=seed)
    return FeatureNet(sample.shape[1], embedding_size, seed=seed)


def load_verification(paths, data) -> dict[str, VerificationPairs]:
    """.bin files -> their pairs by the files' names ("lfw"), the images as those of ``data`` are.

    Raises ValueError for data without images, files that are broken, of one name, or too small for ten folds.
    """
    found: dict[str, VerificationPairs] = {}
    if not paths:
        return found
    sample = sample_of(data)
    if not are_images(sample):
        raise ValueError(f"verify is {', '.join(map(str, paths))}, but the task has no images to be compared with")
    for path in paths:
        name = Path(path).stem
        if name in found:
            raise ValueError(f"verify names {name} twice; each file should have a name of its own")
        found[name] = VerificationPairs(path, *form_of(sample))
        same = found[name].same
        if len(same) < 10 or same.all() or not same.any():
            raise ValueError(
                f"verify is {path}, which has {int(same.sum())} same and {int((~same).sum())} different pairs; "
                "it should have both kinds and 10 pairs at least, for ten folds"
            )
    return found


def sample_of(data):
    """The input of one training sample, as a batch of one."""
    return data.train.batch(torch.zeros(1, dtype=torch.int64))[0]


def form_of(images: Tensor) -> tuple[int, bool]:
    """Pixels a side, and whether they are grey."""
    return images.shape[-1], images.dim() == 3
