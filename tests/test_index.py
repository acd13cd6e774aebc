"""bits.py, lists.py and index.py: against the reference, against brute force, and while rows move."""

import numpy as np
import pytest
import torch

from annsoftmax_ref import IVFBinaryIndex
from annsoftmax_ref import reference as ref
from annsoftmax_ref.lists import InvertedLists
from kernels_inline.bits import hamming, pack_bits, pack_bits_at_once, unpack_bits


def clustered(n, d, seed=0, clusters=8):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(clusters, d, generator=generator, dtype=torch.float64)
    return centres[torch.arange(n) % clusters] + 0.5 * torch.randn(n, d, generator=generator, dtype=torch.float64)


def trained(rows, nlist, **options):
    index = IVFBinaryIndex(*rows.shape, nlist, **options).to(rows.dtype)
    index.train_lists(rows, torch.Generator().manual_seed(1))
    return index


@pytest.mark.parametrize("dim", [1, 5, 63, 64, 65, 130, 256])
def test_bits_and_hamming_equal_the_reference(dim, generator):
    bits = torch.rand(9, dim, generator=generator) > 0.5
    codes = pack_bits(bits)
    np.testing.assert_array_equal(codes.numpy(), ref.pack_bits(bits.numpy()))
    assert torch.equal(unpack_bits(codes, dim), bits) and torch.equal(pack_bits_at_once(bits), codes)
    expected = (bits[:, None] != bits[None]).sum(-1)
    assert torch.equal(hamming(codes[:, None], codes[None]), expected)
    np.testing.assert_array_equal(ref.hamming(codes.numpy(), codes.numpy()), expected.numpy())


@pytest.mark.parametrize("options", [{}, {"rotate": True}, {"centre": True}, {"rotate": True, "centre": True}])
@pytest.mark.parametrize("rerank", [True, False])
@pytest.mark.parametrize("n, d, nlist, nprobe, k", [(203, 20, 7, 3, 9), (64, 65, 64, 5, 12), (50, 8, 1, 1, 50)])
def test_search_equals_the_reference(options, rerank, n, d, nlist, nprobe, k):
    rows, queries = clustered(n, d), clustered(6, d, seed=2)
    index = trained(rows, nlist, **options)
    np.testing.assert_array_equal(index.assignment, ref.assign(rows.numpy(), index.centroids.numpy()))
    ids, scores = index.search(queries, rows, k, nprobe, rerank)
    rotation = index.rotation.numpy() if index.rotate else None
    expected = ref.search(
        queries.numpy(),
        rows.numpy(),
        index.centroids.numpy(),
        index.assignment.numpy(),
        index.codes.numpy(),
        k,
        nprobe,
        rotation,
        index.centre,
        rerank,
    )
    np.testing.assert_array_equal(ids.numpy(), expected[0])
    np.testing.assert_allclose(scores.numpy(), expected[1], rtol=1e-12, atol=1e-12)


def test_all_lists_and_reranking_is_brute_force():
    rows, queries = clustered(500, 24), clustered(11, 24, seed=3)
    index = trained(rows, 16, rotate=True)
    ids, scores = index.search(queries, rows, 500, 16)
    expected = ref.brute_force(queries.numpy(), rows.numpy(), 500)
    np.testing.assert_array_equal(ids.numpy(), expected[0])
    np.testing.assert_allclose(scores.numpy(), expected[1], rtol=1e-12)


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_asymmetric_search_equals_the_reference(rotate, dtype):
    rows, queries = clustered(300, 70).to(dtype), clustered(9, 70, seed=4).to(dtype)
    index = trained(rows, 6, rotate=rotate, asymmetric=True)
    ids, scores = index.search(queries, rows, 300, 6, rerank=False)
    unit = torch.nn.functional.normalize(queries, dim=1).float()
    rotated = (unit @ index.rotation.float() if rotate else unit).double().numpy()
    expected = ref.asymmetric_scores(rotated, index.codes.numpy())
    np.testing.assert_allclose(scores.numpy(), np.take_along_axis(expected, ids.numpy(), 1), rtol=1e-5, atol=1e-5)
    exact = (unit @ torch.nn.functional.normalize(rows, dim=1).float().T).numpy()
    hamming_order = -ref.hamming(ref.encode(queries.numpy()), ref.encode(rows.numpy()))
    if not rotate:  # a better guide to the cosine than signs are
        assert (
            np.corrcoef(expected.ravel(), exact.ravel())[0, 1] > np.corrcoef(hamming_order.ravel(), exact.ravel())[0, 1]
        )


def test_equal_rows_come_in_the_order_of_their_ids():
    rows = clustered(40, 16)[torch.arange(40) % 4]  # ten copies of each of four rows
    index = trained(rows, 2)
    ids, _ = index.search(rows[:1], rows, 10, 2)
    assert ids[0].tolist() == list(range(0, 40, 4))


def test_upkeep_equals_an_index_made_anew():
    rows = clustered(300, 16)
    index = trained(rows, 12)
    generator = torch.Generator().manual_seed(5)
    for _ in range(200):  # enough moves that lists are laid out again
        ids = torch.randperm(300, generator=generator)[:25]
        rows[ids] += 0.3 * torch.randn(25, 16, generator=generator, dtype=torch.float64)
        index.update_rows(rows, ids)
    assert index.stale_bits(rows) == 0.0
    index.refresh(rows, torch.arange(300), move_centroids=False)
    anew = IVFBinaryIndex(300, 16, 12).double()
    anew.load_state_dict(index.state_dict())
    anew.assignment.copy_(anew.nearest_list(torch.nn.functional.normalize(rows, dim=1)))
    anew.update_rows(rows, torch.arange(300))
    assert torch.equal(index.assignment, anew.assignment) and torch.equal(index.codes, anew.codes)
    for a, b in zip(index.search(rows[:20], rows, 30, 3), anew.search(rows[:20], rows, 30, 3), strict=True):
        assert torch.equal(a, b)


def test_refresh_follows_rows_that_drift_away():
    rows = clustered(400, 16)
    index = trained(rows, 8)
    rows = clustered(400, 16, seed=9)  # all of them, to new clusters
    queries = rows[:50]
    exact = torch.tensor(ref.brute_force(queries.numpy(), rows.numpy(), 10)[0])

    def recall():
        found, _ = index.search(queries, rows, 60, 2)  # 16 bits are coarse: take more, re-rank
        return (found.unsqueeze(2) == exact.unsqueeze(1)).any(dim=1).double().mean().item()

    index.update_rows(rows, torch.arange(400))
    before = recall()
    for step in range(60):
        index.refresh(rows, torch.arange(step % 10 * 40, step % 10 * 40 + 40))
    assert recall() > max(0.9, before)


def test_empty_lists_keep_their_centroid_and_are_searched():
    rows = clustered(30, 8, clusters=1)
    index = trained(rows, 10)
    index.refresh(rows, torch.arange(30))
    index.lists.move(torch.arange(30), torch.full((30,), 4))
    assert index.lists.sizes.tolist() == [0, 0, 0, 0, 30, 0, 0, 0, 0, 0]
    ids, scores = index.search(rows[:2], rows, 5, 10)
    assert (ids >= 0).all()
    far = (rows[:1] @ index.centroids.T).argsort()[0, 0].item()
    index.lists.move(torch.arange(30), torch.full((30,), far))
    ids, scores = index.search(rows[:1], rows, 5, 1)  # the one list probed is empty
    assert (ids == -1).all() and (scores == -torch.inf).all()


def test_lists_keep_every_member_once(generator):
    codes = torch.randint(1000, (200, 2), generator=generator)
    lists = InvertedLists(torch.randint(9, (200,), generator=generator), codes, 9)
    for _ in range(300):
        ids = torch.randperm(200, generator=generator)[:17]
        lists.move(ids, torch.randint(9, (17,), generator=generator))
        assert torch.equal(lists.sizes, torch.bincount(lists.assignment, minlength=9))
        for number in range(9):
            members = lists.slots[number]
            place = (members >= 0).nonzero().squeeze(1)
            members = members[place]
            assert torch.equal(lists.slot_codes[number, :, place].T, codes[members])
            members = members.sort().values
            assert torch.equal(members, (lists.assignment == number).nonzero().squeeze(1))


def test_the_same_seed_gives_the_same_index():
    rows = clustered(100, 12)
    first, second = (trained(rows, 9, rotate=True) for _ in range(2))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda i, r: i.search(r[:1], r, 3, 9), ValueError, "nprobe is 9"),
        (lambda i, r: i.search(r[:1], r, 0, 1), ValueError, "k is 0"),
        (lambda i, r: i.search(r[:1], r[:9], 3, 1), ValueError, "rows has shape"),
        (lambda i, r: IVFBinaryIndex(4, 8, 5), ValueError, "nlist is 5"),
        (lambda i, r: IVFBinaryIndex(9, 8, 5, centre=True, asymmetric=True), ValueError, "centre and asymmetric"),
        (lambda i, r: IVFBinaryIndex(4, 8, 2.0), TypeError, "nlist is 2.0"),
        (lambda i, r: IVFBinaryIndex(100, 12, 5).search(r[:1].float(), r.float(), 3, 1), RuntimeError, "train_lists"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(call, error, words):
    rows = clustered(100, 12)
    with pytest.raises(error, match=words):
        call(trained(rows, 5), rows)
