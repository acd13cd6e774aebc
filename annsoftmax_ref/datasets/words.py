"""Words of a text as classes: the next word from the last few, or a word's neighbours from the word (skip-gram).

The next word: Bengio et al., "A neural probabilistic language model" (JMLR 2003). Skip-gram and the subsampling of
frequent words: Mikolov et al., "Distributed representations of words and phrases" (NIPS 2013). A word is a run of
letters, apostrophes within it included, in lower case. A text is cut into passages of ``PASSAGE`` words; windows end
where a passage does, and a tenth of the passages, drawn by a seed, is for the test.

The vocabulary is counted in the passages for training. Words outside it stay where they are, so that no window widens,
as the unknown word: number N, which may be in a window but is nothing to predict.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from annsoftmax_ref.checks import check_from_0, check_positive_int, check_share
from annsoftmax_ref.datasets.files import FileData, check_index
from annsoftmax_ref.datasets.pairs import hashed
from annsoftmax_ref.datasets.texts import python_texts, read_text, read_texts

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
PASSAGE = 100  # words
WINDOWS = {"next": 4, "skipgram": 5}  # words: the last ones; those on each side
SUBSAMPLE = 1e-3  # of skip-gram: words of a larger share of the text are thinned out


@dataclass
class NumberedText:
    """ids [n] int32: the number of each word, N = ``num_words`` for unknown ones; passage [n] int32: which it is in."""

    ids: np.ndarray
    passage: np.ndarray
    num_words: int

    def around(self, places: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """places [b], offsets [w] -> the words there [b, w] int64; N where the passage does not reach."""
        wanted = places[:, None] + offsets
        there = wanted.clip(0, len(self.ids) - 1)
        same = (there == wanted) & (self.passage[there] == self.passage[places][:, None])
        return np.where(same, self.ids[there], self.num_words).astype(np.int64)


@dataclass
class NextWords:
    """Samples are the known words at ``places`` [n] of a text, each to be told from the ``window`` words before it."""

    text: NumberedText
    places: np.ndarray
    window: int

    def __len__(self) -> int:
        return len(self.places)

    @property
    def labels(self) -> Tensor:
        """All labels [n] int64."""
        return torch.from_numpy(self.text.ids[self.places].astype(np.int64))

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """index [b] int64 -> the words before [b, window] int64, nearest last, and labels [b] int64."""
        places = self.places[check_index(index, len(self))]
        before = self.text.around(places, np.arange(-self.window, 0))
        return torch.from_numpy(before), torch.from_numpy(self.text.ids[places].astype(np.int64))


@dataclass
class SkipGrams:
    """Samples are the known words at ``places`` [n] of a text; a sample's label is one of those up to ``window`` words
    away, drawn evenly."""

    text: NumberedText
    places: np.ndarray
    window: int
    draws = True  # a generator for ``batch`` is of use

    def __len__(self) -> int:
        return len(self.places)

    @property
    def labels(self) -> Tensor:
        """The words themselves [n] int64, which are labels of others about as often."""
        return torch.from_numpy(self.text.ids[self.places].astype(np.int64))

    def neighbours(self, index) -> np.ndarray:
        """index [b] -> the words around [b, 2 window] int64, those before first; N where there is none."""
        offsets = np.arange(-self.window, self.window + 1)
        return self.text.around(self.places[check_index(index, len(self))], offsets[offsets != 0])

    def batch(self, index: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """index [b] int64 -> words [b, 1] int64 and one neighbour of each [b] int64, drawn by ``generator``.

        Without a generator it is drawn by the sample's number, so that the answer is always the same.
        """
        around = self.neighbours(index)
        known = around < self.text.num_words
        count = torch.from_numpy(known.sum(axis=1))
        if generator is None:
            chosen = hashed(torch.as_tensor(index), 0) % count
        else:
            chosen = torch.minimum((torch.rand(len(count), generator=generator).double() * count).long(), count - 1)
        column = (known & (known.cumsum(axis=1) == chosen.numpy()[:, None] + 1)).argmax(axis=1)
        words = self.text.ids[self.places[np.asarray(index)]].astype(np.int64)
        return torch.from_numpy(words[:, None]), torch.from_numpy(around[np.arange(len(words)), column])


@dataclass
class WordPairs:
    """Pairs of words with somebody's score of how alike they are: first and second [n], scores [n] float64."""

    first: list[str]
    second: list[str]
    scores: np.ndarray


@dataclass
class WordData(FileData):
    """As ``FileData``; class 0 is the most frequent word. counts [N] int64: of each in the passages for training."""

    counts: Tensor
    pairs: WordPairs | None = None
    split: str = "words"


def load_words(
    path: str | os.PathLike | None = None,
    mode: str = "next",
    vocabulary: int | None = None,
    window: int | None = None,
    min_count: int = 5,
    subsample: float | None = None,
    pairs: str | os.PathLike | None = None,
    skip: int | None = None,
    held_out: float = 0.1,
    seed: int = 0,
    cache_dir: str | os.PathLike | None = None,
) -> WordData:
    """The words of a file or folder (``texts.read_texts``), or of Python's own documentation (``python_texts``).

    mode: "next" or "skipgram". vocabulary: so many of the most frequent words; None: all that occur ``min_count``
    times in the passages for training. window: words before (default 4), or on each side (5). subsample: of skip-gram:
    a word that is a share f of the text stays with probability sqrt(subsample / f), at most 1 (0: always).
    pairs: a file of pairs of words with scores (``read_pairs``). skip: of a folder's files. held_out, seed: of the
    passages.
    Raises ValueError or TypeError for files that are none and for a text with too few words.
    """
    if mode not in WINDOWS:
        raise ValueError(f"mode is {mode!r}; it should be one of {', '.join(WINDOWS)}")
    if subsample is not None and mode != "skipgram":
        raise ValueError(f"subsample is {subsample} with the mode {mode}; it is of the mode skipgram alone")
    check_positive_int("min_count", min_count)
    window = check_positive_int("window", WINDOWS[mode] if window is None else window)
    if vocabulary is not None and check_positive_int("vocabulary", vocabulary) < 2:
        raise ValueError(f"vocabulary is {vocabulary}; it should be at least 2")
    subsample = check_share("subsample", SUBSAMPLE if subsample is None else subsample, zero=True)
    check_share("held_out", held_out)
    check_from_0("seed", seed)
    scored = None if pairs is None else read_pairs(pairs)
    texts = python_texts(cache_dir) if path is None else read_texts(path, skip)
    where = "Python's documentation" if path is None else f"path is {os.fspath(path)}, which"

    types, numbers, passage = number_words(texts)
    tests = _held_out(passage, held_out, seed, where)
    counts = np.bincount(numbers[~tests], minlength=len(types))
    order = np.lexsort((types, -counts))[:vocabulary]
    order = order[counts[order] >= min_count]
    if len(order) < 2:
        raise ValueError(
            f"{where} has {len(order)} words that occur {min_count} times or more in its passages for training; it "
            "should have at least 2: lower min_count, or give more text"
        )
    number = np.full(len(types), len(order), dtype=np.int32)
    number[order] = np.arange(len(order))
    text, counts = NumberedText(number[numbers], passage, len(order)), counts[order]
    if mode == "skipgram":
        thin_out(text, counts, subsample, seed)
    parts = [_samples(mode, text, ~tests, window, where, "train"), _samples(mode, text, tests, window, where, "test")]
    return WordData(*parts, len(order), types[order].tolist(), torch.from_numpy(counts), scored)


def number_words(texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All words as they are found: the different ones, types [t]; numbers [n] int32 of each word in these; and the
    number of the passage that it is in [n] int32."""
    known: dict[str, int] = {}
    numbers, passages, count = [], [], 0
    for text in texts:
        words = WORD.findall(text.lower().replace("’", "'"))
        numbers.append(np.array([known.setdefault(word, len(known)) for word in words], dtype=np.int32))
        passages.append(count + np.arange(len(words), dtype=np.int32) // PASSAGE)
        count += -(-len(words) // PASSAGE)
    return np.array(list(known), dtype=object), np.concatenate(numbers), np.concatenate(passages)


def thin_out(text: NumberedText, counts: np.ndarray, subsample: float, seed: int) -> None:
    """Frequent words become unknown here and there, drawn by ``seed``: see ``load_words``; in place."""
    if subsample:
        stays = np.append(np.minimum(1, np.sqrt(subsample * counts.sum() / counts)), 1.0)
        text.ids[np.random.default_rng(seed).random(len(text.ids)) >= stays[text.ids]] = text.num_words


def read_pairs(path: str | os.PathLike) -> WordPairs:
    """A line a pair: two words and a score, with blanks, tabs or commas between them; more fields are passed over.

    The first line may be a heading. ValueError, with file and line, for what is no such line.
    """
    first, second, scores = [], [], []
    for number, line in enumerate(read_text("pairs", path).splitlines(), 1):
        fields = re.split(r"\s*[,\t]\s*|\s+", line.strip())
        try:
            one, other, score = fields[0].lower(), fields[1].lower(), float(fields[2])
        except (IndexError, ValueError) as error:
            if number == 1 or not line.strip():
                continue
            raise ValueError(f"pairs is {os.fspath(path)}, whose line {number} is not two words and a score") from error
        first.append(one), second.append(other), scores.append(score)
    if not np.isfinite(scores).all():
        raise ValueError(f"pairs is {os.fspath(path)}, which has a score that is not finite")
    return WordPairs(first, second, np.array(scores, dtype=np.float64))


def _held_out(passage: np.ndarray, share: float, seed: int, where: str) -> np.ndarray:
    """Which words are in passages for the test [n] bool."""
    count = int(passage[-1]) + 1 if len(passage) else 0
    if count < 2:
        raise ValueError(
            f"{where} has {len(passage)} words; it should have more than {PASSAGE}, for a passage to train on and one "
            "to test on"
        )
    held = np.zeros(count, dtype=bool)
    tests = min(max(1, int(share * count + 0.5)), count - 1)
    held[np.random.default_rng(seed).permutation(count)[:tests]] = True
    return held[passage]


def _samples(mode: str, text: NumberedText, part: np.ndarray, window: int, where: str, name: str):
    """The samples of one part. A word of skip-gram without a known neighbour is none."""
    places = np.flatnonzero(part & (text.ids < text.num_words))
    kind = {"next": NextWords, "skipgram": SkipGrams}[mode]
    samples = kind(text, places, window)
    if mode == "skipgram" and len(places):
        alone = (samples.neighbours(np.arange(len(places))) == text.num_words).all(axis=1)
        samples.places = places[~alone]
    if not len(samples):
        raise ValueError(f"{where} has no sample to {name} on: no word of the vocabulary is left there")
    return samples
