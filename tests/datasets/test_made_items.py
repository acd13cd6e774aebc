"""datasets/made_items.py: the sessions have the structure that the file states, and its best ranks are the best."""

import numpy as np
import pytest
import torch

from annsoftmax_ref.datasets import make_items
from annsoftmax_ref.datasets.made_items import FOLLOW, FOLLOWERS, STRAY, TASTE, ItemSource
from annsoftmax_ref.evaluation import recall_of_ranks


@pytest.fixture(scope="module")
def made():
    return make_items(1000)


def test_a_seed_says_all(made):
    again, other = make_items(1000), make_items(1000, seed=1)
    assert torch.equal(made.train.items, again.train.items) and torch.equal(made.train.places, again.train.places)
    assert not torch.equal(made.train.items[:1000], other.train.items[:1000])
    assert made.num_classes == len(made.class_names) == 1000 and len(made.test) == 2000


def test_popularity_follows_zipfs_law(made):
    """Of the made events, not of the source alone: the line through log count by log rank falls by about 1."""
    counts = torch.bincount(made.train.items, minlength=1000).sort(descending=True).values[:300].double().numpy()
    slope = np.polyfit(np.log(np.arange(1, 301)), np.log(counts), 1)[0]
    assert -1.15 < slope < -0.85
    ranked = np.sort(made.source.popularity)[::-1]
    assert np.allclose(ranked * np.arange(1, 1001), ranked[0])
    drawn = torch.bincount(made.train.items, minlength=1000).numpy()
    assert np.corrcoef(np.log(drawn + 1), np.log(made.source.popularity))[0, 1] > 0.8


def dense(source):
    """[K, K], how probably which cluster follows which."""
    follows = np.zeros((len(source.mass), len(source.mass)))
    np.put_along_axis(follows, source.followers, source.chances, axis=1)
    return follows


def test_clusters_follow_clusters_as_often_as_is_stated(made):
    source, items, follows = made.source, made.train.items.numpy(), dense(made.source)
    assert np.allclose(follows.sum(axis=1), 1) and set(follows.flat) == {0, *FOLLOWERS}
    inner = np.concatenate([made.train.places, made.test.places])
    before, after = source.cluster[items[inner - 1]], source.cluster[items[inner]]
    # Without its own source, a successor comes as often as popularity has it.
    expected = FOLLOW + (1 - FOLLOW) * (follows[before] > 0) @ source.mass
    assert abs((follows[before, after] > 0).mean() - expected.mean()) < 0.02


def brute_force(source, history):
    """The next item's probability [N] by the text of the file: all tastes in turn, all steps in turn."""
    mass, cluster, follows = source.mass, source.cluster, dense(source)

    def step(before, taste):
        clusters = FOLLOW * follows[cluster[before]] + STRAY * mass
        clusters[taste] += TASTE
        return clusters[cluster] * source.popularity / mass[cluster]

    beliefs = mass.copy()
    for taste in range(len(mass)):
        for before, after in zip(history[:-1], history[1:], strict=True):
            beliefs[taste] *= step(before, taste)[after]
    beliefs /= beliefs.sum()
    return sum(belief * step(history[-1], taste) for taste, belief in enumerate(beliefs))


def test_best_ranks_are_by_bayes_rule(made):
    ranks = made.best_ranks
    (items, lengths), labels = made.test.batch(torch.arange(40))
    rows = zip(items.tolist(), lengths.tolist(), labels.tolist(), ranks[:40].tolist(), strict=True)
    for row, length, label, rank in rows:
        chances = brute_force(made.source, row[:length])
        assert chances.sum() == pytest.approx(1)
        ahead = (chances > chances[label] * (1 + 1e-9)).sum()
        tied = (np.abs(chances / chances[label] - 1) <= 1e-9).sum()
        assert ahead < rank <= ahead + tied


def test_no_simpler_rule_is_better(made):
    """Popularity, and what follows the last item's cluster, both lose by far to all that came before."""
    best, source = recall_of_ranks(made.best_ranks, 10), made.source
    popular = torch.from_numpy(np.argsort(np.argsort(-source.popularity)) + 1)
    assert recall_of_ranks(popular[made.test.labels], 10) + 0.1 < best
    (items, lengths), labels = made.test.batch(torch.arange(len(made.test)))
    last = items[torch.arange(len(items)), lengths - 1].numpy()
    forgetful = source.next_clusters(last[:, None], np.ones(len(last), np.int64))
    chances = forgetful[:, source.cluster] * source.popularity / source.mass[source.cluster]
    ranks = 1 + (chances > chances[np.arange(len(labels)), labels][:, None]).sum(axis=1)
    assert recall_of_ranks(torch.from_numpy(ranks), 10) + 0.03 < best < 0.9


def test_sessions_come_as_probably_as_next_clusters_says():
    """Calibrated: over many sessions, the mean probability of the cluster that came next is that of a true model."""
    source, rng = ItemSource.drawn(200, np.random.default_rng(3)), np.random.default_rng(4)
    items = source.sessions(np.full(20_000, 6), rng)
    chances = source.next_clusters(items[:, :5], np.full(20_000, 5))
    came = np.bincount(source.cluster[items[:, 5]], minlength=chances.shape[1]) / 20_000
    assert np.abs(chances.sum(axis=1) - 1).max() < 1e-12 and np.abs(chances.mean(axis=0) - came).max() < 0.02
    sure = chances.max(axis=1)
    right = chances.argmax(axis=1) == source.cluster[items[:, 5]]
    assert abs(sure.mean() - right.mean()) < 0.02


@pytest.mark.parametrize("num_items", [0, 49, True, 50.0])
def test_too_few_items(num_items):
    with pytest.raises((ValueError, TypeError), match="num_items is"):
        make_items(num_items)
