"""words.py: the vocabulary and the samples against slow and plain ones, and texts that are too small."""

import collections
import random

import numpy as np
import pytest
import torch

from annsoftmax_ref.datasets import load_words
from annsoftmax_ref.datasets.words import PASSAGE, NumberedText, SkipGrams, number_words, read_pairs, thin_out


@pytest.fixture
def book(tmp_path):
    """4,000 words after Zipf's law: word k of 26 about 1 / (k + 1) as often as word 0, with signs and capitals."""
    rng = random.Random(0)
    weights = [1 / (k + 1) for k in range(26)]
    words = rng.choices([chr(ord("a") + k) * 2 for k in range(26)], weights, k=4000)
    text = "".join(rng.choice([word, word.upper()]) + rng.choice([" ", "\n", ", ", " 7 ", "_"]) for word in words)
    (tmp_path / "book.txt").write_text(text)
    return tmp_path / "book.txt", words


def passages_of(words):
    return [words[start : start + PASSAGE] for start in range(0, len(words), PASSAGE)]


def test_words_are_runs_of_letters_and_passages_end_with_a_text():
    types, numbers, passage = number_words(["It's 2 o’clock, naïve_user!", "", " ".join(["it's"] * (PASSAGE + 1))])
    assert types.tolist() == ["it's", "o'clock", "naïve", "user"]
    assert numbers.tolist() == [0, 1, 2, 3] + [0] * (PASSAGE + 1)
    assert passage.tolist() == [0] * 4 + [1] * PASSAGE + [2]


def test_the_vocabulary_is_by_frequency_in_the_passages_for_training(book):
    path, words = book
    data = load_words(path, min_count=60)
    tests = set((data.test.text.passage[data.test.places]).tolist())
    assert len(tests) == 4  # a tenth of 40
    counts = collections.Counter(word for k, part in enumerate(passages_of(words)) if k not in tests for word in part)
    expected = sorted((word for word, count in counts.items() if count >= 60), key=lambda word: (-counts[word], word))
    assert data.class_names == expected and 2 < data.num_classes < 26
    assert data.counts.tolist() == [counts[word] for word in expected]
    assert torch.equal(torch.bincount(data.train.labels, minlength=data.num_classes), data.counts)
    # Zipf's law: the first is twice as frequent as the second and ten times as the tenth, about.
    assert 1.5 < data.counts[0] / data.counts[1] < 2.6 and 6 < data.counts[0] / data.counts[9] < 15
    assert load_words(path, min_count=60, vocabulary=3).class_names == expected[:3]


@pytest.mark.parametrize("min_count", [1, 60])
def test_next_words_equal_a_slow_count(book, min_count):
    path, words = book
    data = load_words(path, window=3, min_count=min_count)
    names = [*data.class_names, None]
    found = []
    for part in (data.train, data.test):
        inputs, labels = part.batch(torch.arange(len(part)))
        assert inputs.shape == (len(part), 3) and inputs.dtype == labels.dtype == torch.int64
        assert torch.equal(labels, part.labels)
        found += [([names[k] for k in row], names[y]) for row, y in zip(inputs.tolist(), labels.tolist(), strict=True)]
    known = {word: word for word in data.class_names}
    expected = [
        ([known.get(word) for word in ([None] * 3 + part)[k : k + 3]], word)
        for part in passages_of(words)
        for k, word in enumerate(part)
        if word in known
    ]
    assert sorted(found, key=str) == sorted(expected, key=str)


def windows_of(words, window):
    """Each word of a passage and the words up to ``window`` away, the slow way."""
    for part in passages_of(words):
        for k, word in enumerate(part):
            yield word, part[max(0, k - window) : k] + part[k + 1 : k + 1 + window]


def test_windows_equal_a_brute_force(book):
    path, words = book
    data = load_words(path, "skipgram", window=2, min_count=60, subsample=0.0)
    names = data.class_names
    found = collections.Counter()
    for part in (data.train, data.test):
        own = part.labels.tolist()
        for word, around in zip(own, part.neighbours(np.arange(len(part))).tolist(), strict=True):
            found[names[word], tuple(names[k] for k in around if k < len(names))] += 1
    known = set(names)
    assert 2 < len(known) < 26
    expected = ((word, tuple(w for w in around if w in known)) for word, around in windows_of(words, 2))
    assert found == collections.Counter((word, around) for word, around in expected if word in known and around)


def test_a_neighbour_is_drawn_evenly_and_by_the_generator(book):
    data = load_words(book[0], "skipgram", window=2, min_count=60, subsample=0.0).train
    index = torch.full((6000,), 5)
    words, drawn = data.batch(index, torch.Generator().manual_seed(0))
    assert words.shape == (6000, 1) and (words == data.labels[5]).all()
    around = [k for k in data.neighbours([5])[0].tolist() if k < data.text.num_words]
    for word, times in collections.Counter(around).items():
        share = times / len(around)
        assert abs((drawn == word).double().mean() - share) < 4 * (share * (1 - share) / 6000) ** 0.5 + 1e-9
    again = data.batch(index, torch.Generator().manual_seed(0))[1]
    assert torch.equal(drawn, again) and not torch.equal(drawn, data.batch(index, torch.Generator().manual_seed(1))[1])
    fixed = data.batch(torch.arange(100))[1]
    assert torch.equal(fixed[50:], data.batch(torch.arange(50, 100))[1])
    for word, row in zip(fixed.tolist(), data.neighbours(np.arange(100)), strict=True):
        assert word in row and word < data.text.num_words


def test_frequent_words_are_thinned_out_as_the_formula_says():
    counts = np.array([90_000, 9_000, 1_000])
    text = NumberedText(np.repeat(np.arange(3, dtype=np.int32), counts), np.zeros(100_000, np.int32), 3)
    first = NumberedText(text.ids.copy(), text.passage, 3)
    thin_out(first, counts, 0.01, seed=0)
    left = np.bincount(first.ids, minlength=4)
    for kept, count, share in zip(left, counts, (0.9, 0.09, 0.01), strict=False):
        p = min(1, (0.01 / share) ** 0.5)
        assert abs(kept - p * count) <= 4 * (count * p * (1 - p)) ** 0.5
    assert left[3] == 100_000 - left[:3].sum()
    second = NumberedText(text.ids.copy(), text.passage, 3)
    thin_out(second, counts, 0.01, seed=1)
    assert not np.array_equal(first.ids, second.ids)


def test_the_same_seed_gives_the_same_data_and_another_other_passages(book):
    one, same, other = (load_words(book[0], "skipgram", min_count=1, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.train.text.ids, same.train.text.ids)
    assert np.array_equal(one.test.places, same.test.places)
    assert set(one.test.text.passage[one.test.places]) != set(other.test.text.passage[other.test.places])


@pytest.mark.parametrize(
    "text, settings, words",
    [
        ("A single sentence is not enough.", {}, "which has 6 words; it should have more than 100"),
        ("1 2 3", {}, "which has 0 words"),
        ("one " * 300, {}, "which has 1 words that occur 5 times or more .* it should have at least 2"),
        (" ".join(chr(97 + k // 26) + chr(97 + k % 26) for k in range(300)), {}, "which has 0 words that occur 5"),
        ("a b " * 300, {"mode": "cbow"}, "mode is 'cbow'; it should be one of next, skipgram"),
        ("a b " * 300, {"subsample": 0.1}, "subsample is 0.1 with the mode next"),
        ("a b " * 300, {"mode": "skipgram", "subsample": 2}, "subsample is 2"),
        ("a b " * 300, {"vocabulary": 1}, "vocabulary is 1; it should be at least 2"),
        ("a b " * 300, {"window": 0}, "window is 0"),
        ("a b " * 300, {"min_count": 0}, "min_count is 0"),
        ("a b " * 50 + "c d " * 50, {"min_count": 1}, "which has no sample to test on"),
    ],
)
def test_texts_and_settings_that_will_not_do(tmp_path, text, settings, words):
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        load_words(tmp_path / "t.txt", **settings)
    assert "\n" not in str(caught.value)


def test_pairs_of_words_with_scores(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("Word 1,Word 2,Human (mean)\nTiger,cat,7.35\n\ncup\tcoffee\t6.58\textra\nbook paper 7\n")
    pairs = read_pairs(path)
    assert pairs.first == ["tiger", "cup", "book"] and pairs.second == ["cat", "coffee", "paper"]
    assert pairs.scores.tolist() == [7.35, 6.58, 7.0]
    for line, words in {"a b\n": "whose line 2 is not two words and a score", "a b nan\n": "not finite"}.items():
        path.write_text("tiger cat 1\n" + line)
        with pytest.raises(ValueError, match=f"pairs is .*{words}"):
            read_pairs(path)


def test_a_word_without_a_known_neighbour_is_no_sample_of_skip_gram():
    text = NumberedText(np.array([0, 2, 2, 1, 0], np.int32), np.zeros(5, np.int32), 2)
    around = SkipGrams(text, np.array([0, 3, 4]), 1).neighbours(np.arange(3))
    assert around.tolist() == [[2, 2], [2, 0], [1, 2]]
