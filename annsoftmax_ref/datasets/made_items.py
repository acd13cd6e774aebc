"""Sessions that are made, not recorded: a known source of events, so that the best that any model can do is known, too.

Items are in clusters of about 50, and their popularity follows Zipf's law, p ~ rank^-1. A user has a taste, one cluster
for all of a session. The first item is any by popularity; each next one is

    with probability 0.5  of a cluster that follows that of the item before: one of three, by 0.6, 0.3 and 0.1
    with probability 0.3  of the cluster that is the user's taste
    with probability 0.2  of any cluster, by its popularity

and within the cluster one by popularity. What cluster follows which, and all tastes, are drawn by popularity, so that
items come about as often as Zipf's law says. A model has to find the clusters, what follows what, and from the whole
session the taste. It cannot know the taste, but weigh it: ``best_ranks`` does, by Bayes' rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from annsoftmax_ref.checks import check_from_0, check_positive_int
from annsoftmax_ref.datasets.files import Numbers
from annsoftmax_ref.datasets.items import ItemData, SessionSet, split_sessions

FOLLOW, TASTE, STRAY = 0.5, 0.3, 0.2
FOLLOWERS = (0.6, 0.3, 0.1)
CLUSTER = 50  # items
SHORTEST, LONGEST = 5, 15  # sessions
USERS = 2  # an item
LENGTH = 50
TESTS = 10_000
CELLS = 1 << 22  # probabilities held at a time


@dataclass
class ItemSource:
    """popularity [N], of sum 1; cluster [N], not falling; followers [K, 3], the clusters that follow each, not falling,
    and how probably each of them does: chances [K, 3], rows of sum 1."""

    popularity: np.ndarray
    cluster: np.ndarray
    followers: np.ndarray
    chances: np.ndarray

    @classmethod
    def drawn(cls, num_items: int, rng: np.random.Generator) -> ItemSource:
        clusters = max(len(FOLLOWERS), num_items // CLUSTER)
        popularity = rng.permutation(1 / np.arange(1, num_items + 1))
        popularity, cluster = popularity / popularity.sum(), np.arange(num_items) * clusters // num_items
        mass = np.bincount(cluster, popularity)
        drawn = [rng.choice(clusters, len(FOLLOWERS), replace=False, p=mass) for _ in range(clusters)]
        order = np.argsort(drawn, axis=1)
        return cls(popularity, cluster, np.take_along_axis(np.array(drawn), order, 1), np.array(FOLLOWERS)[order])

    @cached_property
    def mass(self) -> np.ndarray:
        """The popularity of each cluster [K]."""
        return np.bincount(self.cluster, self.popularity)

    def sessions(self, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A session for each of the lengths [u] -> its items [u, longest]; what is beyond its length is of none."""
        edges = np.concatenate([[0], self.mass.cumsum()])
        total, up_to = self.popularity.cumsum(), self.chances.cumsum(axis=1)
        users = len(lengths)
        taste = rng.choice(len(self.mass), users, p=self.mass)
        items = np.empty((users, lengths.max()), np.int64)
        for step in range(items.shape[1]):
            low, high = np.zeros(users), np.ones(users)  # of the popularity, as a range: of all items
            if step:
                before = self.cluster[items[:, step - 1]]
                place = (rng.random((users, 1)) * up_to[before, -1:] >= up_to[before]).sum(axis=1)
                kind = rng.random(users)
                chosen = np.where(kind < FOLLOW, self.followers[before, place], taste)
                bound = kind < FOLLOW + TASTE
                low[bound], high[bound] = edges[chosen[bound]], edges[chosen[bound] + 1]
            drawn = np.searchsorted(total, low + (high - low) * rng.random(users), side="right")
            items[:, step] = drawn.clip(max=len(total) - 1)
        return items

    def next_clusters(self, items: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """items [b, T], of which row k has ``lengths[k]`` -> the probability of the next one's cluster [b, K].

        Bayes' rule: an item of cluster c that came after one of cluster b speaks for the taste c by the factor
        1 + TASTE / (FOLLOW p(c follows b) + STRAY mass[c]), and for no other.
        """
        mass, cluster = self.mass, self.cluster[items]
        before, after = cluster[:, :-1], cluster[:, 1:]
        followed = np.where(self.followers[before] == after[..., None], self.chances[before], 0).sum(axis=-1)
        factor = np.log1p(TASTE / (FOLLOW * followed + STRAY * mass[after]))
        row, column = (np.arange(1, items.shape[1]) < lengths[:, None]).nonzero()
        belief = np.tile(np.log(mass), (len(items), 1))
        np.add.at(belief, (row, after[row, column]), factor[row, column])
        belief = np.exp(belief - belief.max(axis=1, keepdims=True))
        found = TASTE * belief / belief.sum(axis=1, keepdims=True) + STRAY * mass
        last = cluster[np.arange(len(items)), lengths - 1]
        found[np.arange(len(items))[:, None], self.followers[last]] += FOLLOW * self.chances[last]
        return found


@dataclass
class MadeItems(ItemData):
    """``ItemData`` with its ``source``."""

    source: ItemSource | None = None

    @cached_property
    def best_ranks(self) -> Tensor:
        """The rank [n], from 1, of each test sample's item where all items are ranked by their true probability given
        what came before: no model that sees the same can be expected to be better at any recall@k."""
        within = self.source.popularity / self.source.mass[self.source.cluster]
        ranks = []
        for index in torch.arange(len(self.test)).split(max(1, CELLS // self.num_classes)):
            (items, lengths), labels = self.test.batch(index)
            chances = self.source.next_clusters(items.numpy(), lengths.numpy())[:, self.source.cluster] * within
            own = chances[np.arange(len(labels)), labels][:, None]
            tied = (chances == own) & (np.arange(self.num_classes) < labels[:, None].numpy())
            ranks.append(1 + (chances > own).sum(axis=1) + tied.sum(axis=1))
        return torch.from_numpy(np.concatenate(ranks))


def make_items(num_items: int = 5_000, seed: int = 0) -> MadeItems:
    """Sessions of two users an item, 5 to 15 items long, all drawn by ``seed``; every item is a class, seen or not.

    The last items of the first 10,000 users are tested on, those of the others are left out.
    """
    if check_positive_int("num_items", num_items) < CLUSTER:
        raise ValueError(f"num_items is {num_items}; it should be at least {CLUSTER}")
    rng = np.random.default_rng(check_from_0("seed", seed))
    source = ItemSource.drawn(num_items, rng)
    lengths = rng.integers(SHORTEST, LONGEST + 1, USERS * num_items)
    items = source.sessions(lengths, rng)
    data = split_sessions(items[np.arange(items.shape[1]) < lengths[:, None]], lengths, Numbers(num_items), LENGTH)
    test = SessionSet(data.test.items, data.test.starts[:TESTS], data.test.places[:TESTS], LENGTH)
    return MadeItems(data.train, test, data.num_classes, data.class_names, source=source)
