"""A head that was really trained on the glyphs, small enough to lie beside the notebooks.

``python -m annsoftmax_ref.lessons.trained`` (or ``make lesson-data``) trains full softmax with the default recipe and
writes ``trained.npz``: about a minute. The notebooks look at its prototypes and at drawings it never saw.
"""

from __future__ import annotations

import dataclasses
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from annsoftmax_ref.machine.files import replacing

FILE = Path(__file__).with_name("trained.npz")
QUERIES = 1024  # drawings of held-out faces, and as many to train on


@dataclass(frozen=True)
class Trained:
    """Arrays in float32, rows of length 1, as full softmax (CosFace, scale 20) left them.

    prototypes [N, d]: of class c the row c, classes numbered as ``load_glyphs()`` does. queries [q, d]: embeddings of
    drawings in faces that training never saw; query_labels [q] and query_index [q]: their classes, and their places in
    ``load_glyphs().test``. batch [q, d], batch_labels, batch_index: the same of ``train``, with augmentation.
    accuracy: of the whole test set, 0 to 1.
    """

    prototypes: np.ndarray
    queries: np.ndarray
    query_labels: np.ndarray
    query_index: np.ndarray
    batch: np.ndarray
    batch_labels: np.ndarray
    batch_index: np.ndarray
    accuracy: float
    scale: float = 20.0


ARRAYS = [field.name for field in dataclasses.fields(Trained) if field.name != "scale"]


def load_trained(path: str | os.PathLike = FILE) -> Trained:
    """The head in ``path``. Raises OSError if there is none, and ValueError for a file that is broken or another
    (``make lesson-data`` makes it anew)."""
    try:
        with np.load(path) as saved:
            arrays = {name: saved[name] for name in ARRAYS}
    except (ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zipfile.zlib.error) as error:
        raise ValueError(
            f"path is {os.fspath(path)}, which is broken or no trained head; `make lesson-data` makes it anew"
        ) from error
    for name in ("prototypes", "queries", "batch"):
        rows = arrays[name].astype(np.float32)
        arrays[name] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return Trained(**{name: value if value.ndim else float(value) for name, value in arrays.items()})


def make(path: str | os.PathLike = FILE, seed: int = 0, epochs: int | None = None) -> None:
    """Train, and write the file, whole or not at all. Rows are stored in 8 bits: cosines change in the third digit."""
    from annsoftmax_ref.datasets import load_glyphs
    from annsoftmax_ref.evaluation import embed
    from annsoftmax_ref.factory import make_head
    from annsoftmax_ref.training import default_recipe, fit
    from annsoftmax_ref.training.network import ConvNet

    data, recipe = load_glyphs(), default_recipe("cosface")
    recipe = dataclasses.replace(recipe, epochs=epochs or recipe.epochs)
    model = ConvNet(seed=seed)
    head = make_head("full", data.num_classes, 128, recipe.make_objective(), seed=seed)
    history = fit(model, head, data, recipe, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    index = {name: torch.randperm(len(part), generator=generator)[:QUERIES] for name, part in _parts(data)}
    images = {name: part.images[index[name]] for name, part in _parts(data)}
    augmented = recipe.augmentation(images["batch"], generator)
    labels = {name: part.labels[index[name]].numpy().astype(np.int16) for name, part in _parts(data)}
    with replacing(path) as temporary:
        np.savez_compressed(
            temporary,
            prototypes=_in_8_bits(head.prototypes()),
            queries=_in_8_bits(embed(model, images["queries"])),
            query_labels=labels["queries"],
            query_index=index["queries"].numpy().astype(np.int32),
            batch=_in_8_bits(embed(model, augmented)),
            batch_labels=labels["batch"],
            batch_index=index["batch"].numpy().astype(np.int32),
            accuracy=np.float64(history.accuracy),
        )


def _parts(data):
    return (("queries", data.test), ("batch", data.train))


def _in_8_bits(rows: torch.Tensor) -> np.ndarray:
    """rows [n, d] -> int8, each row scaled so that its largest number is 127."""
    return (127 * rows / rows.abs().amax(dim=1, keepdim=True)).round().to(torch.int8).numpy()


if __name__ == "__main__":
    make()
