"""bench/indexes.py: what stands beside ours is searched and brought up to date as ours is."""

import pytest
import torch

from annsoftmax_ref.bench.indexes import FaissGraph, FaissLists, OurIndex, ScannTree
from annsoftmax_ref.bench.vectors import clustered_vectors

faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed (extra: peers)")


@pytest.mark.parametrize("kind", FaissLists.KINDS)
def test_updated_indexes_find_the_rows_where_they_are_now(kind):
    vectors = clustered_vectors(400, 64, 5)
    ids = torch.arange(0, 400, 10)
    moved = vectors.rows.clone()
    moved[ids] = -moved[ids]
    for index in (OurIndex(vectors.rows, 4), FaissLists(kind, vectors.rows, 4)):
        found = index.search(moved[ids[:5]], 5, 4, 400)
        assert not (found == ids[:5, None]).any()
        index.update(moved, ids)
        found = index.search(moved[ids[:5]], 5, 4, 400)  # 5: codes alone may mistake a neighbour for it
        assert (found == ids[:5, None]).any(dim=1).all()


def test_a_wider_beam_finds_more_in_the_graph():
    vectors = clustered_vectors(2000, 16, 40)
    truth = (vectors.queries @ vectors.rows.T).topk(5, dim=1).indices
    graph = FaissGraph(vectors.rows)
    narrow, wide = ((graph.search(vectors.queries, 5, None, c) == truth).double().mean() for c in (5, 500))
    assert narrow < wide and wide > 0.99


def test_scann_finds_more_in_more_lists():
    pytest.importorskip("scann", reason="scann is not installed")
    vectors = clustered_vectors(2000, 16, 40)
    truth = (vectors.queries @ vectors.rows.T).topk(5, dim=1).indices
    tree = ScannTree(vectors.rows, 16)
    found = [tree.search(vectors.queries, 5, nprobe, 200) for nprobe in (1, 16)]
    few, all_ = ((torch.isin(ids, truth).double().mean()) for ids in found)
    assert found[0].dtype == torch.int64 and few < all_ and all_ > 0.99
