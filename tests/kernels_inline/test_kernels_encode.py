"""``encode`` and ``assign``: equal to plain torch up to rounding, on every instruction set."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_examples import assign_torch, encode_torch, unpack

from kernels_inline import build, encode_ops
from kernels_inline.checks import ROW_KINDS

pytestmark = pytest.mark.skipif(not build.available(), reason=str(build.why_not()))


def everywhere():
    for flags in build.runnable_variants().values():
        with build.using(flags):
            yield


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
        codes = encode_ops.encode(rows, ids, rotation, centroids, lists)
        assert codes.shape == (count, -(-dim // 64))
        wrong = unpack(codes, dim) != (exact > 0)
        assert not (wrong & (exact.abs() > 1e-6)).any()
        if not (rotate or centre):
            assert torch.equal(codes, encode_torch(rows, ids))


def test_encode_in_several_chunks(monkeypatch):
    monkeypatch.setattr(encode_ops, "CHUNK", 7)
    rows, rotation = torch.randn(50, 20), torch.linalg.qr(torch.randn(20, 20)).Q.contiguous()
    ids, lists, centroids = torch.randperm(50)[:30], torch.randint(4, (30,)), F.normalize(torch.randn(4, 20))
    codes = encode_ops.encode(rows, ids, rotation, centroids, lists)
    assert torch.equal(codes, encode_torch(rows, ids, rotation, centroids, lists))


@given(**sizes, nlist=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_assign_takes_the_nearest_and_of_equals_the_lowest(num_rows, dim, count, seed, nlist):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-1, 2, (count, dim), generator=generator).float()  # whole numbers: products are exact
    centroids = torch.randint(-1, 2, (nlist, dim), generator=generator).float()
    expected = (rows @ centroids.T).double().numpy().argmax(axis=1)
    for _ in everywhere():
        assert encode_ops.assign(rows, centroids).tolist() == expected.tolist()


def test_assign_in_several_blocks(monkeypatch):
    monkeypatch.setattr(encode_ops, "SCORES", 1)  # 64 rows each
    rows, centroids = F.normalize(torch.randn(300, 32)), F.normalize(torch.randn(10, 32))
    assert torch.equal(encode_ops.assign(rows, centroids), assign_torch(rows, centroids))


def test_threads_do_not_change_the_result():
    rows, ids = torch.randn(5000, 40), torch.randint(30, (5000,))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(encode_ops.encode(rows, ids))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results[1:])


def test_bad_input_is_one_sentence():
    rows, ids, centroids = torch.randn(9, 6), torch.tensor([0, 3]), torch.randn(4, 6)
    cases = [
        (lambda: encode_ops.encode(rows, torch.tensor([0, 9])), "ids holds a row number"),
        (lambda: encode_ops.encode(rows, ids, None, centroids, torch.tensor([0, 4])), "lists holds"),
        (lambda: encode_ops.encode(rows, ids, None, centroids), "one of centroids and lists is None"),
        (lambda: encode_ops.encode(rows.double(), ids), "rows is torch.float64"),
        (lambda: encode_ops.encode(rows.T, ids), "rows is .* strides"),
        (lambda: encode_ops.encode(rows, ids, torch.eye(5)), r"rotation is .* shape \[5, 5\]"),
        (lambda: encode_ops.encode(rows, ids.int()), "ids is torch.int32"),
        (lambda: encode_ops.assign(rows, torch.randn(4, 5)), r"centroids is .* should be .* shape \[4, 6\]"),
    ]
    for run, message in cases:
        with pytest.raises(ValueError, match=message):
            run()


def test_passes_opcheck():
    rows, ids, lists, centroids = torch.randn(9, 70), torch.tensor([0, 3]), torch.tensor([1, 1]), torch.randn(4, 70)
    torch.library.opcheck(encode_ops.encode.registered, (rows, ids))
    torch.library.opcheck(encode_ops.encode.registered, (rows, ids, torch.eye(70), centroids, lists))
    torch.library.opcheck(encode_ops.assign.registered, (rows, centroids))


@pytest.mark.parametrize("dim", [5, 64, 100])
@pytest.mark.parametrize("rotate, centre", [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("kind", ROW_KINDS[1:], ids=str)
def test_narrow_rows_have_the_codes_of_their_values(dim, rotate, centre, kind):
    rows, ids = torch.randn(30, dim).round(decimals=1).to(kind), torch.randint(30, (50,))
    rotation = torch.linalg.qr(torch.randn(dim, dim)).Q.contiguous() if rotate else None
    parts = (F.normalize(torch.randn(3, dim)), torch.randint(3, (50,))) if centre else (None, None)
    for _ in everywhere():
        ours, floats = (encode_ops.encode(stored, ids, rotation, *parts) for stored in (rows, rows.float()))
        assert torch.equal(ours, floats)
