"""class_index.py: an index for prediction alone, and how many of its lists a recall needs."""

import pytest
import torch

from annsoftmax_ref import NearestClasses, SoftmaxHead
from annsoftmax_ref.bench.vectors import clustered_vectors
from annsoftmax_ref.class_index import ClassIndex, check_candidates, default_candidates, find_index, nprobe_for
from annsoftmax_ref.list_sizes import default_nprobe
from annsoftmax_ref.row_parameter import RowParameter


@pytest.fixture(scope="module")
def vectors():
    return clustered_vectors(2000, 64, 40)


@pytest.fixture
def head(vectors):
    head = SoftmaxHead(2000, 64, NearestClasses(0.1, nlist=16, nprobe=5))
    with torch.no_grad():
        head.weight.copy_(vectors.rows)
    return head


def test_the_same_seed_makes_the_same_lists(vectors):
    weights = [RowParameter(vectors.rows.clone()) for _ in range(3)]
    one, same, other = (ClassIndex(w, 16, seed).index for w, seed in zip(weights, (0, 0, 1), strict=True))
    assert torch.equal(one.assignment, same.assignment) and not torch.equal(one.assignment, other.assignment)


def test_a_row_that_turns_goes_to_its_nearest_list(vectors):
    weight = RowParameter(vectors.rows.clone())
    made = ClassIndex(weight, 16)
    before = made.index.centroids.clone()
    with torch.no_grad():
        weight[:5] = vectors.rows[1000:1005]
    made.follow(weight)
    assert torch.equal(made.index.assignment[:5], made.index.assignment[1000:1005])
    assert torch.equal(made.index.codes[:5], made.index.codes[1000:1005])
    assert torch.equal(made.index.centroids, before)


def test_the_index_that_was_built_goes_before_the_selector_s(vectors, head):
    assert find_index(head) is None
    head(vectors.queries, torch.arange(40)).backward()
    index, nprobe = find_index(head)
    assert index is head.selector.index and nprobe == 5
    head.build_index(8)
    index, nprobe = find_index(head)
    assert index is head.class_index.index and nprobe == default_nprobe(8) and index.nlist == 8


def test_as_few_lists_as_reach_a_recall(vectors, head):
    head.build_index(16)
    nprobe, found = nprobe_for(head, vectors.queries, 5, 0.9)
    assert found == head.recall_of_topk(vectors.queries, 5, nprobe) >= 0.9
    assert nprobe in (2, 4, 8, 16) and head.recall_of_topk(vectors.queries, 5, nprobe // 2) < 0.9
    with pytest.raises(ValueError, match="recall is 0.99; with all 16 lists and 5 candidates 0.* are found"):
        nprobe_for(head, vectors.queries, 5, 0.99, 5)
    with pytest.raises(ValueError, match="recall is 1; it should be above 0 and below 1"):
        nprobe_for(head, vectors.queries, 5, 1)


def test_more_candidates_are_the_default_for_more_classes():
    assert [default_candidates(k) for k in (1, 10, 100)] == [100, 317, 1000]
    assert check_candidates(None, 10) == 317 and check_candidates(10, 10) == 10
    with pytest.raises(ValueError, match="candidates is 9; it should be at least k, 10"):
        check_candidates(9, 10)
