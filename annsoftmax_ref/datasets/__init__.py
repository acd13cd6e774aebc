"""Data sets with thousands to millions of real classes, drawn from fonts: no download.

``load_glyphs`` draws matplotlib's own DejaVu fonts, ``load_fonts`` those in a folder, and ``load_pairs`` makes
any number of classes out of pairs of characters. Each gives an object with ``train``, ``test``,
``num_classes`` and ``class_names``; ``train.batch(index)`` gives images [b, 32, 32] uint8 and labels [b].
"""

from annsoftmax_ref.datasets.augment import Augmentation, to_float
from annsoftmax_ref.datasets.fonts import load_fonts
from annsoftmax_ref.datasets.glyphs import GlyphData, ImageSet, load_glyphs
from annsoftmax_ref.datasets.pairs import PairData, PairSet, load_pairs

__all__ = [
    "Augmentation",
    "GlyphData",
    "ImageSet",
    "PairData",
    "PairSet",
    "load_fonts",
    "load_glyphs",
    "load_pairs",
    "to_float",
]
