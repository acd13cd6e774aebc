"""``encode``, ``assign``, ``kmeans_sums``: equal to plain torch up to rounding, on every instruction set."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels_inline import build, upkeep_ops

pytestmark = pytest.mark.skipif(not build.available(), reason=str(build.why_not()))


def everywhere():
    for flags in build.runnable_variants().values():
        with build.using(flags):
            yield


def unpack(codes, dim):
    return ((codes.unsqueeze(-1) >> torch.arange(64)) & 1).flatten(1)[:, :dim].bool()


sizes = dict(
    num_rows=st.integers(1, 200),
    dim=st.sampled_from([1, 5, 16, 63, 64, 65, 100, 128, 200]),
    count=st.integers(0, 50),
    seed=st.integers(0, 2**20),
)


@given(**sizes, rotate=st.booleans(), centre=st.booleans())
@settings(max_examples=80, deadline=None)
def test_encode_equals_plain_torch_but_for_numbers_within_rounding_of_zero(num_rows, dim, count, seed, rotate, centre):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(num_rows, dim, generator=generator).round(decimals=1)  # zeros among them
    ids = torch.randint(num_rows, (count,), generator=generator)
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q.contiguous() if rotate else None
    centroids = F.normalize(torch.randn(3, dim, generator=generator)) if centre else None
    lists = torch.randint(3, (count,), generator=generator) if centre else None
    unit = F.normalize(rows[ids].double(), dim=1) - (centroids[lists].double() if centre else 0)
    exact = unit @ rotation.double() if rotate else unit
    for _ in everywhere():
        codes = upkeep_ops.encode(rows, ids, rotation, centroids, lists)
        assert codes.shape == (count, -(-dim // 64))
        wrong = unpack(codes, dim) != (exact > 0)
        assert not (wrong & (exact.abs() > 1e-6)).any()
        if not (rotate or centre):
            assert torch.equal(codes, upkeep_ops.encode_torch(rows, ids))


def test_encode_in_several_chunks(monkeypatch):
    monkeypatch.setattr(upkeep_ops, "CHUNK", 7)
    rows, rotation = torch.randn(50, 20), torch.linalg.qr(torch.randn(20, 20)).Q.contiguous()
    ids, lists, centroids = torch.randperm(50)[:30], torch.randint(4, (30,)), F.normalize(torch.randn(4, 20))
    codes = upkeep_ops.encode(rows, ids, rotation, centroids, lists)
    assert torch.equal(codes, upkeep_ops.encode_torch(rows, ids, rotation, centroids, lists))


@given(**sizes, nlist=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_assign_takes_the_nearest_and_of_equals_the_lowest(num_rows, dim, count, seed, nlist):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-1, 2, (count, dim), generator=generator).float()  # whole numbers: products are exact
    centroids = torch.randint(-1, 2, (nlist, dim), generator=generator).float()
    expected = (rows @ centroids.T).double().numpy().argmax(axis=1)
    for _ in everywhere():
        assert upkeep_ops.assign(rows, centroids).tolist() == expected.tolist()


def test_assign_in_several_blocks(monkeypatch):
    monkeypatch.setattr(upkeep_ops, "SCORES", 1)  # 64 rows each
    rows, centroids = F.normalize(torch.randn(300, 32)), F.normalize(torch.randn(10, 32))
    assert torch.equal(upkeep_ops.assign(rows, centroids), upkeep_ops.assign_torch(rows, centroids))


@given(**sizes, nlist=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_kmeans_sums_is_no_worse_than_plain_torch(num_rows, dim, count, seed, nlist):
    generator = torch.Generator().manual_seed(seed)
    rows, lists = torch.randn(count, dim, generator=generator), torch.randint(nlist, (count,), generator=generator)
    exact = torch.zeros(nlist, dim, dtype=torch.float64).index_add_(0, lists, rows.double())
    plain, plain_counts = upkeep_ops.kmeans_sums_torch(rows, lists, nlist)
    for _ in everywhere():
        sums, counts = upkeep_ops.kmeans_sums(rows, lists, nlist)
        assert torch.equal(counts, plain_counts)
        if count:
            assert (sums - exact).abs().max() <= (plain - exact).abs().max() + 1e-12


def test_threads_do_not_change_the_result():
    rows, lists = torch.randn(5000, 40), torch.randint(30, (5000,))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            sums, counts = upkeep_ops.kmeans_sums(rows, lists, 30)
            results.append((sums, counts, upkeep_ops.encode(rows, lists)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_bad_input_is_one_sentence():
    rows, ids, centroids = torch.randn(9, 6), torch.tensor([0, 3]), torch.randn(4, 6)
    cases = [
        (lambda: upkeep_ops.encode(rows, torch.tensor([0, 9])), ValueError, "ids holds a row number"),
        (lambda: upkeep_ops.encode(rows, ids, None, centroids, torch.tensor([0, 4])), ValueError, "lists holds"),
        (lambda: upkeep_ops.encode(rows, ids, None, centroids), ValueError, "one of centroids and lists is None"),
        (lambda: upkeep_ops.encode(rows.double(), ids), TypeError, "rows is torch.float64"),
        (lambda: upkeep_ops.encode(rows.T, ids), ValueError, "rows has strides"),
        (lambda: upkeep_ops.encode(rows, ids, torch.eye(5)), ValueError, "rotation has shape"),
        (lambda: upkeep_ops.encode(rows, ids.int()), TypeError, "ids is torch.int32"),
        (lambda: upkeep_ops.assign(rows, torch.randn(4, 5)), ValueError, "centroids has shape"),
        (lambda: upkeep_ops.kmeans_sums(rows, ids, 4), ValueError, r"lists has shape \[2\]; it should be \[9\]"),
        (lambda: upkeep_ops.kmeans_sums(rows[:2], ids, 3), ValueError, "lists holds"),
        (lambda: upkeep_ops.kmeans_sums(rows[:2], ids, 0), ValueError, "nlist is 0"),
    ]
    for run, error, message in cases:
        with pytest.raises(error, match=message):
            run()


def test_passes_opcheck():
    rows, ids, lists, centroids = torch.randn(9, 70), torch.tensor([0, 3]), torch.tensor([1, 1]), torch.randn(4, 70)
    torch.library.opcheck(upkeep_ops.encode, (rows, ids))
    torch.library.opcheck(upkeep_ops.encode, (rows, ids, torch.eye(70), centroids, lists))
    torch.library.opcheck(upkeep_ops.assign, (rows, centroids))
    torch.library.opcheck(upkeep_ops.kmeans_sums, (rows[:2], lists, 4))
