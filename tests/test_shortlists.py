"""shortlists.py and the index's first lists: as before for few rows, against the reference for very many."""

import numpy as np
import pytest
import torch

from annsoftmax_ref import IVFBinaryIndex
from annsoftmax_ref import index as index_module
from annsoftmax_ref import reference as ref
from annsoftmax_ref.bench.vectors import clustered_vectors
from annsoftmax_ref.machine import waiting
from annsoftmax_ref.shortlists import largest

N, D, NLIST = 6000, 24, 64


@pytest.fixture(scope="module")
def rows():
    return clustered_vectors(N, D, 1).rows.double()


def first_lists(rows, samples_per_list=64):
    index = IVFBinaryIndex(*rows.shape, NLIST).to(rows.dtype)
    index.train_lists(rows, torch.Generator().manual_seed(1), samples_per_list=samples_per_list)
    return index


def sample_of(rows, samples_per_list):
    picks = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))[: NLIST * samples_per_list]
    return rows[picks].numpy()


def test_few_rows_get_the_lists_of_the_reference_each_compared_with_all_centroids(rows):
    index, sample = first_lists(rows), sample_of(rows, 64)
    centroids = ref.spherical_kmeans(sample, NLIST, 5, init=sample[:NLIST])
    np.testing.assert_allclose(index.centroids, centroids, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(index.assignment, ref.assign(rows.numpy(), centroids))


def test_very_many_rows_get_those_of_the_reference_with_shortlists(rows, monkeypatch):
    monkeypatch.setattr(index_module, "EXACT", N * NLIST - 1)
    index, sample = first_lists(rows, 8), sample_of(rows, 8)
    centroids = ref.normalize(sample[:NLIST])
    for _ in range(5):
        lists = ref.assign_by_shortlist(sample, centroids, *ref.shortlists(centroids, NLIST // 8, NLIST // 8))
        centroids = ref.kmeans_step(sample, centroids, lists)
    np.testing.assert_allclose(index.centroids, centroids, rtol=1e-9, atol=1e-9)
    found = ref.shortlists(centroids, NLIST // 8, NLIST // 8)
    np.testing.assert_array_equal(index.assignment, ref.assign_by_shortlist(rows.numpy(), centroids, *found))
    assert not np.array_equal(index.assignment, ref.assign(rows.numpy(), centroids))  # else it shows nothing


def test_a_long_first_call_says_what_it_does_and_that_of_a_small_head_nothing(rows, monkeypatch, caplog):
    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    monkeypatch.setattr(waiting, "INTERVAL", 0.0)
    monkeypatch.setattr(index_module, "EXACT", N * NLIST - 1)
    first_lists(rows)  # of a head so small, whatever keeps it waiting
    assert caplog.messages == []
    monkeypatch.setattr(index_module, "SPOKEN_OF", N)
    first_lists(rows)
    stages = [message.split(", ")[-2].split(": ")[-1] for message in caplog.messages]
    assert all(message.startswith("making the index of 6,000 classes: ") for message in caplog.messages)
    assert list(dict.fromkeys(stages)) == ["k-means", "lists", "codes"]
    assert [m for m in caplog.messages if "100%" in m and "lists" in m] and "codes, 100%" in caplog.messages[-1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 5, 40])
def test_the_largest_scores_are_those_of_topk_in_some_order(dtype, count):
    draw = torch.Generator().manual_seed(count)
    scores = torch.stack([torch.randperm(40, generator=draw) for _ in range(9)]).to(dtype)
    found = largest(scores, count)
    assert found.is_contiguous() and found.dtype == torch.int64
    assert torch.equal(found.sort(dim=1).values, scores.topk(count, dim=1).indices.sort(dim=1).values)
