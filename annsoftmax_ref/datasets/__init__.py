"""Data sets with thousands to millions of real classes: drawn from fonts without a download, or read from files.

``load_glyphs`` draws matplotlib's own DejaVu fonts, ``load_fonts`` those in a folder, and ``load_pairs`` makes
any number of classes out of pairs of characters. Each gives an object with ``train``, ``test``,
``num_classes`` and ``class_names``; ``train.batch(index)`` gives images [b, 32, 32] uint8 and labels [b].

``make_items`` makes sessions of a stated structure; ``load_items`` reads them from a log of events.

Real sets are read only when a batch asks: ``load_image_folder`` (ImageNet, Products-10K), ``load_record_io`` (MS1MV3,
Glint360K, WebFace), ``load_memmap`` (features made before), ``load_xmc`` (Amazon-670K), ``VerificationPairs`` (LFW).
``load_words`` reads any text, or Python's own documentation: the next word, or skip-gram.
"""

from annsoftmax_ref.datasets.augment import Augmentation
from annsoftmax_ref.datasets.fonts import load_fonts
from annsoftmax_ref.datasets.glyphs import GlyphData, ImageSet, load_glyphs
from annsoftmax_ref.datasets.image_folder import ImageFolder, load_image_folder
from annsoftmax_ref.datasets.inputs import to_float
from annsoftmax_ref.datasets.items import ItemHistory, SessionSet, load_items
from annsoftmax_ref.datasets.made_items import MadeItems, make_items
from annsoftmax_ref.datasets.memmap import MappedFeatures, load_memmap
from annsoftmax_ref.datasets.pairs import PairData, PairSet, load_pairs
from annsoftmax_ref.datasets.record_io import RecordFile, RecordSet, load_record_io
from annsoftmax_ref.datasets.verification_bin import VerificationPairs
from annsoftmax_ref.datasets.words import NextWords, SkipGrams, WordData, WordPairs, load_words
from annsoftmax_ref.datasets.xmc import SparseRows, XMCFile, load_xmc
from annsoftmax_ref.datasets.zipf import zipf_subset

__all__ = [
    "Augmentation",
    "GlyphData",
    "ImageFolder",
    "ImageSet",
    "ItemHistory",
    "MadeItems",
    "MappedFeatures",
    "NextWords",
    "PairData",
    "PairSet",
    "RecordFile",
    "RecordSet",
    "SessionSet",
    "SkipGrams",
    "SparseRows",
    "VerificationPairs",
    "WordData",
    "WordPairs",
    "XMCFile",
    "load_fonts",
    "load_glyphs",
    "load_image_folder",
    "load_items",
    "load_memmap",
    "load_pairs",
    "load_record_io",
    "load_words",
    "load_xmc",
    "make_items",
    "to_float",
    "zipf_subset",
]
