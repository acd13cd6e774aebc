"""Drawing characters: one face of a font, and every character of several faces as 32x32 images."""

from __future__ import annotations

import logging
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTCollection, TTFont
from PIL import ImageFont
from tqdm.auto import tqdm

from annsoftmax_ref.datasets.files import check_file

SIZE = 32  # images are SIZE x SIZE
FONT_SIZE = 24  # pixels an em; what does not fit is drawn smaller
BASELINE = 24  # the row that letters stand on
# More characters than this with the very same drawing in one face: the face's box for "no such character".
PLACEHOLDER = 16
OUTLINES = {"glyf", "CFF ", "CFF2"}  # the tables that a font has one of, unless it is one of bitmaps

logger = logging.getLogger(__name__)


@dataclass
class Face:
    """One face of a font file (``index`` counts the faces of a collection)."""

    path: Path
    index: int = 0
    name: str = ""
    code_points: list[int] = field(default_factory=list)

    def __post_init__(self):
        self.damaged = 0  # outlines that FreeType could not draw
        self._sizes: dict[int, ImageFont.FreeTypeFont] = {}

    def draw(self, code_point: int) -> np.ndarray | None:
        """[32, 32] uint8, ink 255 on 0; None if the face draws nothing, or its outline is damaged.

        On the baseline and centred on its ink from left to right. A drawing larger than the image is made in
        a smaller size; one that reaches past an edge is moved inside.
        """
        size = FONT_SIZE
        while True:
            # Layout.BASIC: no shaping, so a code point is drawn alone, and libraqm is not needed.
            try:
                mask, (_, rise) = self._font(size).getmask2(chr(code_point), mode="L", anchor="ls")
            except OSError:
                self.damaged += 1
                return None
            width, height = mask.size
            if max(width, height) <= SIZE or size == 1:
                break
            size = max(1, min(size - 1, size * SIZE // max(width, height)))
        ink = np.array(mask, dtype=np.uint8).reshape(height, width)[:SIZE, :SIZE]
        rows, columns = ink.any(axis=1).nonzero()[0], ink.any(axis=0).nonzero()[0]
        if len(rows) == 0:
            return None
        rise = rise + rows[0]
        ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        height, width = ink.shape
        top, left = min(max(BASELINE + rise, 0), SIZE - height), (SIZE - width) // 2
        image = np.zeros((SIZE, SIZE), dtype=np.uint8)
        image[top : top + height, left : left + width] = ink
        return image

    def _font(self, size: int) -> ImageFont.FreeTypeFont:
        if size not in self._sizes:
            self._sizes[size] = ImageFont.truetype(
                self.path, size, index=self.index, layout_engine=ImageFont.Layout.BASIC
            )
        return self._sizes[size]


def read_faces(path: Path) -> list[Face]:
    """The faces in a .ttf, .otf or .ttc file, each with the code points it has a drawing for.

    Control, private and unassigned code points (category C) and spaces (Z) are left out.
    Raises ValueError if the file is not a font that can be read, or one of bitmaps, which have a size of their own.
    """
    check_file("font", path, "a .ttf, .otf or .ttc font")
    try:
        whole = path.suffix.lower() == ".ttc"
        fonts = TTCollection(path, lazy=True).fonts if whole else [TTFont(path, lazy=True)]
        drawable = all(OUTLINES & set(font.keys()) for font in fonts)
        faces = [_face(path, index, font, len(fonts)) for index, font in enumerate(fonts)] if drawable else []
    except Exception as error:  # fontTools and FreeType raise many kinds for damaged files
        raise ValueError(
            f"the font file {path} cannot be read ({type(error).__name__}: {error}); "
            "replace it or move it out of the folder"
        ) from error
    if not drawable:
        raise ValueError(
            f"the font file {path} is one of bitmaps; it should hold outlines, which can be drawn at any "
            "size: move it out of the folder"
        )
    return faces


def _face(path: Path, index: int, font: TTFont, count: int) -> Face:
    mapped = font.getBestCmap() or {}
    drawn = sorted(c for c in mapped if unicodedata.category(chr(c))[0] not in "CZ")
    face = Face(path, index, path.stem if count == 1 else f"{path.stem}#{index}", drawn)
    face._font(FONT_SIZE)  # FreeType's own opinion of the file, before the work starts
    return face


def draw_classes(faces: list[Face], min_faces: int, progress: bool = True) -> dict[str, np.ndarray]:
    """Every character that at least ``min_faces`` faces draw, as classes with all their drawings.

    Identical drawings are merged: two characters that some face draws with the same pixels (Latin A, Greek
    Alpha) are one class, and so are all that such pairs connect; the same pixels of one class in one face are kept
    once. Returns images [n, 32, 32] uint8, labels [n] int64, faces [n] int64, and members [classes], the
    characters of each class in one string. Classes are ordered by their lowest code point.
    """
    covering = Counter(c for face in faces for c in face.code_points)
    drawings: list[tuple[int, int, bytes]] = []  # face, code point, pixels
    for index, face in enumerate(tqdm(faces, desc="drawing", unit="face", disable=not progress)):
        drawn = [(c, face.draw(c)) for c in face.code_points if covering[c] >= min_faces]
        if face.damaged:
            logger.warning("left out of %s: %d characters, whose outlines are damaged", face.path, face.damaged)
        pixels = [(c, image.tobytes()) for c, image in drawn if image is not None]
        shared = Counter(p for _, p in pixels)
        drawings += [(index, c, p) for c, p in pixels if shared[p] <= PLACEHOLDER]
    covering = Counter(c for _, c, _ in drawings)
    drawings = [d for d in drawings if covering[d[1]] >= min_faces]
    class_of = merge_identical(drawings)

    distinct = sorted({(class_of[c], face, p) for face, c, p in drawings})
    members = defaultdict(list)
    for c in sorted(class_of):
        members[class_of[c]].append(chr(c))
    images = np.frombuffer(b"".join(p for *_, p in distinct), dtype=np.uint8).reshape(-1, SIZE, SIZE).copy()
    return {
        "images": images,
        "labels": np.array([label for label, *_ in distinct], dtype=np.int64),
        "faces": np.array([face for _, face, _ in distinct], dtype=np.int64),
        "members": np.array(["".join(members[k]) for k in range(len(members))]),
    }


def merge_identical(drawings: list[tuple[int, int, bytes]]) -> dict[int, int]:
    """(face, code point, pixels) of every drawing -> class number of every code point (union-find)."""
    parent = {c: c for _, c, _ in drawings}

    def root(c: int) -> int:
        while parent[c] != c:
            parent[c] = c = parent[parent[c]]
        return c

    first: dict[tuple[int, bytes], int] = {}
    for face, c, pixels in drawings:
        low, high = sorted((root(first.setdefault((face, pixels), c)), root(c)))
        parent[high] = low
    number = {c: k for k, c in enumerate(sorted({root(c) for c in parent}))}
    return {c: number[root(c)] for c in parent}
