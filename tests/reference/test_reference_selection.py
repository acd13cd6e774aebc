"""The NumPy reference: groups, active sets and the grouped loss, against plain Python loops."""

import doctest

import numpy as np
import pytest

from annsoftmax_ref import reference as ref


def slow_union(candidates, labels, fill_order, A, N):
    """The rules of `union_active` with a Python set."""
    chosen = set(labels.tolist())
    ranked = sorted(
        {
            (min(r for row in candidates.tolist() for r, c in enumerate(row) if c == wanted), wanted)
            for wanted in set(candidates.ravel().tolist()) - {-1}
        }
    )
    for c in [c for _, c in ranked] + fill_order.tolist() + list(range(N)):
        if len(chosen) < A:
            chosen.add(c)
    active = sorted(chosen)
    return active, [active.index(y) for y in labels.tolist()]


@pytest.mark.parametrize("trial", range(40))
def test_union_active_against_a_set(trial):
    rng = np.random.default_rng(trial)
    N, b, k = int(rng.integers(1, 30)), int(rng.integers(1, 7)), int(rng.integers(0, 6))
    labels = rng.integers(N, size=b)
    if trial % 3 == 0:
        labels[:] = labels[0]  # all labels equal
    candidates = rng.integers(-1, N, size=(b, k))
    fill_order = rng.integers(N, size=int(rng.integers(0, 8)))  # duplicates allowed
    A = N if trial % 5 == 0 else int(rng.integers(len(set(labels.tolist())), N + 1))
    active, target = ref.union_active(candidates, labels, fill_order, A, N)
    slow_active, slow_target = slow_union(candidates, labels, fill_order, A, N)
    assert active.tolist() == slow_active and len(active) == A
    assert target.tolist() == slow_target


def test_union_active_order_of_claims():
    candidates = np.array([[5, 9, 7], [6, 9, -1]])

    def union(A, fill):
        return ref.union_active(candidates, np.array([2, 2]), np.array(fill, int), A, 12)[0].tolist()

    assert union(1, []) == [2]
    assert union(2, []) == [2, 5]  # 5 and 6 both have rank 0: the lower id
    assert union(4, [0]) == [2, 5, 6, 9]  # rank 1 before rank 2, before the filling
    assert union(6, [9, 11]) == [2, 5, 6, 7, 9, 11]
    assert union(8, [11]) == [0, 1, 2, 5, 6, 7, 9, 11]


@pytest.mark.parametrize(
    "N, rate, A",
    [(10, 0.1, 1), (10, 0.05, 1), (5, 0.5, 3), (7, 0.5, 4), (3, 0.01, 1), (9, 1.0, 9), (1, 0.3, 1), (4800, 0.1, 480)],
)
def test_active_count_rounds_half_up(N, rate, A):
    assert ref.active_count(N, rate) == A


@pytest.mark.parametrize("B, num_groups", [(1, 1), (1, 4), (5, 2), (7, 3), (8, 4), (10, 4), (6, 9), (33, 7)])
def test_groups_partition_evenly(B, num_groups, rng):
    permutation = rng.permutation(B)
    by_chance = ref.random_groups(B, num_groups, permutation)
    by_likeness = ref.similar_groups(rng.standard_normal((B, 5)), num_groups)
    for groups in (by_chance, by_likeness):
        sizes = [len(g) for g in groups]
        assert sizes == ref.group_sizes(B, num_groups) == sorted(sizes, reverse=True)
        assert len(groups) == min(num_groups, B) and max(sizes) - min(sizes) <= 1
        assert np.sort(np.concatenate(groups)).tolist() == list(range(B))
    assert np.concatenate(by_chance).tolist() == permutation.tolist()
    assert all(np.all(np.diff(g) > 0) for g in by_likeness)


def slow_order(points, ids, parts):
    """The same halving with the leading eigenvector of the scatter matrix and a sort of tuples."""
    if parts == 1:
        return [set(ids)]
    centred = points[ids] - sum(points[ids]) / len(ids)
    v = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    ranked = [i for _, i in sorted((float(points[i] @ v), i) for i in ids)]
    half = len(ids) // 2
    return slow_order(points, ranked[:half], parts // 2) + slow_order(points, ranked[half:], parts // 2)


@pytest.mark.parametrize("B, num_groups", [(8, 2), (16, 4), (32, 8), (16, 16)])
def test_similar_groups_of_many_iterations_are_those_of_the_eigenvectors(B, num_groups, rng):
    x = rng.standard_normal((B, 6))
    groups = ref.similar_groups(x, num_groups, iterations=3000)
    slow = slow_order(ref.normalize(x), list(range(B)), num_groups)
    assert {frozenset(g.tolist()) for g in groups} == {frozenset(g) for g in slow}


def test_the_main_direction_comes_near_the_eigenvector(rng):
    points = rng.standard_normal((50, 8)) * [3, 2, 1, 1, 1, 1, 1, 1]
    centred = points - points.mean(axis=0)
    exact = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    near = [abs(ref.main_direction(points, n) @ exact) for n in (1, 3, 30)]
    assert near[0] < near[1] < near[2] and near[1] > 0.97 and near[2] == pytest.approx(1, abs=1e-9)
    assert np.linalg.norm(ref.main_direction(points)) == pytest.approx(1)


def test_similar_groups_find_clusters_and_ignore_length(rng):
    cluster = rng.permutation(np.repeat(np.arange(4), 8))
    x = 5 * ref.normalize(rng.standard_normal((4, 16)))[cluster] + 0.1 * rng.standard_normal((32, 16))
    groups = ref.similar_groups(x * rng.uniform(0.1, 10, (32, 1)), 4)
    assert all(len(set(cluster[g])) == 1 for g in groups)


def test_similar_groups_of_identical_samples_go_by_index():
    groups = ref.similar_groups(np.ones((5, 3)), 2)
    assert [g.tolist() for g in groups] == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize(
    "name, settings",
    [("cross_entropy", {}), ("cosface", {"margin": 0.3}), ("arcface", {"margin": 0.4}), ("dsoftmax", {})],
)
@pytest.mark.parametrize("B, num_groups", [(1, 1), (7, 1), (7, 3), (5, 5)])
def test_grouped_loss_is_the_mean_over_samples(B, num_groups, name, settings, rng):
    """Sample by sample: each sample alone against its group's active set, divided by B."""
    N, d, A = 15, 4, 8
    x, w, labels = rng.standard_normal((B, d)), rng.standard_normal((N, d)), rng.integers(N, size=B)
    labels[-1] = labels[0]
    objective = ref.make_objective(name, scale=9.0, **settings)
    groups = ref.random_groups(B, num_groups, rng.permutation(B))
    nearest = ref.brute_force(x, w, 3)[0]
    actives = [ref.union_active(nearest[g], labels[g], rng.permutation(N), A, N)[0] for g in groups]
    loss, dx, dw = ref.grouped_loss(x, w, labels, groups, actives, objective)
    slow_loss, slow_dx, slow_dw = 0.0, np.zeros((B, d)), np.zeros((N, d))
    for group, active in zip(groups, actives, strict=True):
        for i in group:
            target = [active.tolist().index(labels[i])]
            one, one_dx, one_dw = ref.active_loss(x[[i]], w, target, active, objective)
            slow_loss += one / B
            slow_dx[i] = one_dx[0] / B
            for row, c in enumerate(active):
                slow_dw[c] += one_dw[row] / B
    assert loss == pytest.approx(slow_loss, rel=1e-13)
    np.testing.assert_allclose(dx, slow_dx, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(dw, slow_dw, rtol=1e-11, atol=1e-14)


def test_all_classes_active_in_every_group_is_full_softmax(rng):
    x, w, labels = rng.standard_normal((7, 4)), rng.standard_normal((9, 4)), rng.integers(9, size=7)
    objective = ref.make_objective("arcface", scale=10.0, margin=0.3)
    groups = ref.similar_groups(x, 3)
    grouped = ref.grouped_loss(x, w, labels, groups, [np.arange(9)] * 3, objective)
    for ours, full in zip(grouped, ref.full_loss(x, w, labels, objective), strict=True):
        np.testing.assert_allclose(ours, full, rtol=1e-12, atol=1e-15)


def no_ids(rows):
    return np.zeros((rows, 0), int)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: ref.active_count(10, 0.0), ValueError, r"rate is 0.0; it should lie in \(0, 1\]"),
        (lambda: ref.active_count(10, 1.5), ValueError, "rate is 1.5"),
        (lambda: ref.active_count(10, float("nan")), ValueError, "rate is nan"),
        (lambda: ref.active_count(0, 0.5), ValueError, "N is 0"),
        (lambda: ref.union_active(no_ids(3), [0, 1, 2], [], 2, 9), ValueError, "3 distinct classes.* A = 2"),
        (lambda: ref.union_active(no_ids(1), [9], [], 2, 9), ValueError, "labels spans 9..9; it should"),
        (lambda: ref.union_active(no_ids(1), [0.5], [], 2, 9), TypeError, "labels has type float64"),
        (lambda: ref.union_active(no_ids(0), [], [], 2, 9), ValueError, "at least one"),
        (lambda: ref.union_active(no_ids(2), [1], [], 2, 9), ValueError, "candidates has shape"),
        (lambda: ref.union_active(np.array([[9]]), [1], [], 2, 9), ValueError, "candidates spans 9..9"),
        (lambda: ref.union_active(no_ids(1), [1], [-1], 2, 9), ValueError, "fill_order spans"),
        (lambda: ref.union_active(no_ids(1), [1], [], 10, 9), ValueError, "A is 10; it should lie in 1..9"),
        (lambda: ref.random_groups(0, 1, []), ValueError, "batch is 0"),
        (lambda: ref.random_groups(3, 0, [0, 1, 2]), ValueError, "num_groups is 0"),
        (lambda: ref.random_groups(3, 2, [0, 1, 1]), ValueError, "permutation repeats"),
        (lambda: ref.similar_groups(np.zeros((0, 3)), 2), ValueError, r"x has shape \(0, 3\)"),
    ],
)
def test_bad_input_gets_one_sentence(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "groups, actives, message",
    [
        ([[0], [1]], [[0, 1, 2]], "groups"),
        ([[0], [0]], [[0, 1, 2]] * 2, "should hold each of 0..1 once"),
        ([[0], [1]], [[0, 1], [0, 1]], "actives lack a label"),
    ],
)
def test_grouped_loss_refuses_broken_groups(groups, actives, message):
    groups, actives = [np.array(g) for g in groups], [np.array(a) for a in actives]
    with pytest.raises(ValueError, match=message):
        objective = ref.make_objective("dsoftmax", 4.0)
        ref.grouped_loss(np.ones((2, 3)), np.eye(3), [0, 2], groups, actives, objective)


def test_the_walk_through_one_batch_runs():
    outcome = doctest.testmod(ref)
    assert outcome.attempted > 10 and outcome.failed == 0
