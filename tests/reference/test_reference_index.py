"""The NumPy reference: k-means, codes, lists and search, against plain Python loops."""

import numpy as np
import pytest

from annsoftmax_ref import reference as ref


def code_bits(code, d):
    """The first d bits of packed words, as Python ints."""
    return [(int(code[j // 64]) >> (j % 64)) & 1 for j in range(d)]


def slow_search(x, w, centroids, assignment, k, nprobe, rotation, centred, rerank):
    """The specification of `search` in loops and sorted tuples, with bits as Python lists."""
    d = x.shape[1]
    turn = np.eye(d) if rotation is None else rotation

    def unit(v):
        return v / max(np.linalg.norm(v), 1e-12)

    def bits(v, part):
        return (((unit(v) - centred * centroids[part]) @ turn) > 0).tolist()

    all_ids, all_scores = [], []
    for q in x:
        by_cosine = sorted((-(unit(q) @ c), part) for part, c in enumerate(centroids))
        probed = [part for _, part in by_cosine[:nprobe]]
        pairs = sorted(
            (sum(a != b for a, b in zip(bits(q, part), bits(w[c], part), strict=True)), c)
            for part in probed
            for c in range(len(w))
            if assignment[c] == part
        )[:k]
        scored = [(-float(np.sum(unit(w[c]) * unit(q))), c) if rerank else (h, c) for h, c in pairs]
        scored = sorted(scored) + [(np.inf, -1)] * (k - len(pairs))
        all_ids.append([c for _, c in scored])
        all_scores.append([-float(s) for s, _ in scored])
    return np.array(all_ids), np.array(all_scores)


def make_index(rng, N=40, d=9, nlist=5, rotated=False, centred=False):
    w = rng.standard_normal((N, d))
    centroids = ref.spherical_kmeans(w, nlist, 4, rng)
    assignment = ref.assign(w, centroids)
    rotation = ref.random_rotation(d, rng) if rotated else None
    codes = ref.encode(w, rotation, centroids[assignment] if centred else None)
    return w, centroids, assignment, codes, rotation


@pytest.mark.parametrize("rerank", [False, True])
@pytest.mark.parametrize("rotated, centred", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("B, d, k, nprobe", [(1, 1, 3, 2), (3, 9, 7, 2), (2, 70, 40, 5), (3, 64, 25, 1)])
def test_search_against_loops(B, d, k, nprobe, rotated, centred, rerank, rng):
    w, centroids, assignment, codes, rotation = make_index(rng, d=d, rotated=rotated, centred=centred)
    x = rng.standard_normal((B, d))
    ids, scores = ref.search(x, w, centroids, assignment, codes, k, nprobe, rotation, centred, rerank)
    slow_ids, slow_scores = slow_search(x, w, centroids, assignment, k, nprobe, rotation, centred, rerank)
    np.testing.assert_array_equal(ids, slow_ids)
    np.testing.assert_allclose(scores, slow_scores, rtol=1e-13)
    assert ids.dtype == np.int64 and ids.shape == scores.shape == (B, k)


@pytest.mark.parametrize("rotated, centred", [(False, False), (True, False), (False, True), (True, True)])
def test_all_lists_and_all_candidates_is_brute_force(rotated, centred, rng):
    w, centroids, assignment, codes, rotation = make_index(rng, rotated=rotated, centred=centred)
    w[7] = w[31] = w[2]  # exact ties, which the lower id must win
    x = np.concatenate([rng.standard_normal((3, 9)), w[[2]]])
    found = ref.search(x, w, centroids, assignment, codes, k=40, nprobe=5, rotation=rotation, centred=centred)
    exact = ref.brute_force(x, w, k=40)
    np.testing.assert_array_equal(found[0], exact[0])
    np.testing.assert_array_equal(found[1], exact[1])
    assert exact[0][3, :3].tolist() == [2, 7, 31]


def test_brute_force_against_sorting_and_beyond_n(rng):
    x, w = rng.standard_normal((4, 6)), rng.standard_normal((5, 6))
    ids, scores = ref.brute_force(x, w, k=7)
    z = ref.cosine_logits(x, w)
    for b in range(4):
        assert ids[b].tolist() == sorted(range(5), key=lambda c: (-z[b, c], c)) + [-1, -1]  # noqa: B023
        np.testing.assert_allclose(scores[b, :5], sorted(z[b], reverse=True), rtol=1e-12)
    assert (scores[:, 5:] == -np.inf).all()


@pytest.mark.parametrize("d", [1, 63, 64, 65, 130])
def test_pack_bits_and_hamming_against_python_integers(d, rng):
    a, b = rng.random((3, d)) > 0.5, rng.random((4, d)) > 0.5
    a[0] = True  # the sign bit of the words too
    codes_a, codes_b = ref.pack_bits(a), ref.pack_bits(b)
    assert codes_a.dtype == np.int64 and codes_a.shape == (3, -(-d // 64))
    assert [code_bits(code, d) for code in codes_a] == a.astype(int).tolist()
    unused = codes_a.shape[1] * 64 - d
    assert unused == 0 or (codes_a[:, -1].view(np.uint64) >> np.uint64(64 - unused) == 0).all()
    slow = [[sum(int(p != q) for p, q in zip(r, s, strict=True)) for s in b] for r in a]
    np.testing.assert_array_equal(ref.hamming(codes_a, codes_b), slow)


def test_encode_is_the_sign_of_the_turned_residual(rng):
    w, centroid = rng.standard_normal((6, 70)), rng.standard_normal(70)
    rotation = ref.random_rotation(70, rng)
    w[0] = 0  # a zero row has no positive entry
    assert not ref.encode(w)[0].any()
    assert code_bits(ref.encode(w)[3], 70) == [int(value > 0) for value in w[3]]
    residual = w[3] / np.linalg.norm(w[3]) - centroid
    turned = [sum(residual[i] * rotation[i, j] for i in range(70)) for j in range(70)]
    assert code_bits(ref.encode(w, rotation, centroid)[3], 70) == [int(value > 0) for value in turned]
    np.testing.assert_array_equal(ref.encode(w, rotation, np.tile(centroid, (6, 1))), ref.encode(w, rotation, centroid))


def test_random_rotation_is_orthogonal_and_keeps_cosines(rng):
    rotation = ref.random_rotation(12, rng)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(12), atol=1e-13)


def test_differing_bits_estimate_the_angle(rng):
    """With a random rotation, the share of differing bits is angle / pi on average."""
    d, angle = 128, 1.0
    a, b = np.eye(d)[0], np.cos(angle) * np.eye(d)[0] + np.sin(angle) * np.eye(d)[1]
    shares = []
    for _ in range(60):
        rotation = ref.random_rotation(d, rng)
        codes = ref.encode(np.stack([a, b]), rotation)
        shares.append(ref.hamming(codes[:1], codes[1:])[0, 0] / d)
    assert np.mean(shares) == pytest.approx(angle / np.pi, abs=0.02)  # standard error 0.005


def test_kmeans_step_against_loops_and_empty_lists_keep_their_centroid(rng):
    w = rng.standard_normal((20, 4))
    centroids = ref.normalize(np.concatenate([w[:3], -100 * w.sum(axis=0, keepdims=True)]))
    centroids[3] = centroids[1]  # a twin of list 1: ties go to the lower list, so list 3 is empty
    assignment = ref.assign(w, centroids)
    unit = w / np.linalg.norm(w, axis=1, keepdims=True)
    slow_assignment = []
    for row in unit:
        cosines = [round(float(row @ c), 12) for c in centroids]
        slow_assignment.append(cosines.index(max(cosines)))  # index() finds the first
    assert assignment.tolist() == slow_assignment and 3 not in assignment
    updated = ref.kmeans_step(w, centroids)
    for l in range(3):  # noqa: E741
        total = sum(unit[i] for i in range(20) if assignment[i] == l)
        np.testing.assert_allclose(updated[l], total / np.linalg.norm(total), rtol=1e-13)
    np.testing.assert_array_equal(updated[3], centroids[3])


def test_kmeans_step_keeps_a_centroid_whose_rows_cancel():
    w, centroids = np.array([[0.0, 1.0], [0.0, -1.0]]), np.array([[1.0, 0.0]])
    np.testing.assert_array_equal(ref.kmeans_step(w, centroids), centroids)


def test_spherical_kmeans_gains_and_reproduces(rng):
    w = rng.standard_normal((60, 5)) + 3 * rng.standard_normal((6, 5))[rng.integers(6, size=60)]
    init = ref.kmeans_init(w, 6, np.random.default_rng(3))
    np.testing.assert_array_equal(
        ref.spherical_kmeans(w, 6, 5, init=init), ref.spherical_kmeans(w, 6, 5, np.random.default_rng(3))
    )
    rounds = [ref.spherical_kmeans(w, 6, n, init=init) for n in range(6)]
    fit = [np.mean(np.max(ref.normalize(w) @ centroids.T, axis=1)) for centroids in rounds]
    assert np.all(np.diff(fit) >= -1e-12)  # the mean cosine to the nearest centroid never falls
    assert len({tuple(row) for row in ref.kmeans_init(w, 60, rng)}) == 60  # distinct rows


def test_build_lists(rng):
    assignment = rng.integers(4, size=30)
    assignment[assignment == 2] = 0  # an empty list
    order, start = ref.build_lists(assignment, 5)
    for l in range(5):  # noqa: E741
        assert order[start[l] : start[l + 1]].tolist() == [c for c in range(30) if assignment[c] == l]


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(nprobe=6), "nprobe is 6; it should lie in 1..5"),
        (dict(nprobe=0), "nprobe is 0"),
        (dict(k=0), "k is 0"),
        (dict(x=np.zeros((0, 9))), r"x has shape \(0, 9\)"),
        (dict(x=np.ones((2, 8))), "w has 9 columns; it should have 8"),
        (dict(assignment=np.zeros(3, int)), r"assignment has shape \(3,\)"),
    ],
)
def test_bad_search_input(change, message, rng):
    w, centroids, assignment, codes, _ = make_index(rng)
    call = dict(x=np.ones((2, 9)), w=w, centroids=centroids, assignment=assignment, codes=codes, k=3)
    with pytest.raises(ValueError, match=message):
        ref.search(**{**call, "nprobe": 2, **change})


def test_bad_kmeans_input(rng):
    w = rng.standard_normal((4, 3))
    with pytest.raises(ValueError, match="nlist is 5; it should lie in 1..4"):
        ref.kmeans_init(w, 5, rng)
    with pytest.raises(ValueError, match="rng and init are both missing"):
        ref.spherical_kmeans(w, 2, 1)
    with pytest.raises(ValueError, match="init has 3 rows; it should have nlist = 2"):
        ref.spherical_kmeans(w, 2, 1, init=w[:3])
