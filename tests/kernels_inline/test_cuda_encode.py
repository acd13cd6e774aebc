"""encode.cu: every version gives what plain torch or the C++ kernels give; integers bit for bit."""

import pytest
import torch
import torch.nn.functional as F
from cuda_runners import RUNNERS, is_poisoned, poisoned, runner, versions
from kernel_examples import encode_torch, unpack

from kernels_inline.bits import pack_bits
from kernels_inline.checks import ROW_KINDS

DIMS = [1, 31, 33, 64, 100, 128, 130, 260]


@pytest.fixture(params=RUNNERS)
def encode(request):
    return runner(request.param, "encode.cu")


def version_of(name):
    return pytest.mark.parametrize("version", versions("encode.cu", name))


def sign_codes(call, version, rows, ids, centroids=None, lists=None):
    count, dim = len(rows) if ids is None else len(ids), rows.shape[1]
    words = -(-dim // 64)
    codes = poisoned(count, words, dtype=torch.int64)
    nlist = 0 if centroids is None else len(centroids)
    kind = ROW_KINDS.index(rows.dtype)
    arguments = rows, kind, ids, centroids, lists, count, len(rows), dim, nlist, words, codes
    assert call("sign_codes_v", version, *arguments) == 0
    return codes


# -------------------------------------------------------------------------------------------------- sign_codes


@version_of("sign_codes")
@pytest.mark.parametrize("dim", [*DIMS, 1100])  # more than 32 pieces of 32 bits
def test_sign_codes_equal_plain_torch_bit_for_bit(encode, version, dim):
    rows = torch.randn(23, dim).round(decimals=0)  # zeros, also negative ones, among them
    rows[3], rows[4, 0], rows[5] = 0, torch.nan, 1e-30 * torch.randn(dim)
    ids = torch.randint(23, (37,))
    expected = F.pad(rows > 0, (0, -dim % 64)).unflatten(1, (-1, 64)).to(torch.int64)
    expected = (expected << torch.arange(64)).sum(dim=-1)
    assert torch.equal(sign_codes(encode, version, rows, ids), expected[ids])
    assert torch.equal(sign_codes(encode, version, rows, None), expected)
    assert torch.equal(sign_codes(encode, version, rows.bfloat16(), ids), expected[ids])
    tiny = rows.to(torch.float8_e4m3fn)  # where what is smaller than 2^-10 is 0
    assert torch.equal(sign_codes(encode, version, tiny, ids), pack_bits(tiny.float() > 0)[ids])


@version_of("sign_codes")
@pytest.mark.parametrize("dim", DIMS)
def test_signs_of_residuals_but_for_numbers_within_rounding_of_zero(encode, version, dim):
    rows, centroids = torch.randn(20, dim) * 3, F.normalize(torch.randn(5, dim))
    rows[2] = 0  # a row of zeros: the clamp 1e-12, and then minus the centroid
    rows[7] *= 1e15
    ids, lists = torch.randint(20, (33,)), torch.randint(5, (33,))
    ids[:2] = torch.tensor([2, 7])
    codes = sign_codes(encode, version, rows, ids, centroids, lists)
    exact = F.normalize(rows[ids].double(), dim=1) - centroids[lists].double()
    wrong = unpack(codes, dim) != (exact > 0)
    assert not (wrong & (exact.abs() > 3e-7)).any()
    tail = (codes[:, -1:] >> (dim - 1) % 64 >> 1).flatten()
    assert dim % 64 == 0 or (tail == 0).all()  # no bits behind the last number
    if dim > 1:  # with one dimension row and centroid are 1 or -1, and the difference is 0 or 2
        assert torch.equal(codes, encode_torch(rows, ids, None, centroids, lists))
    for kind in ROW_KINDS[1:]:
        narrow = rows.to(kind)
        ours, floats = (
            sign_codes(encode, version, stored, ids, centroids, lists) for stored in (narrow, narrow.float())
        )
        assert torch.equal(ours, floats)


@version_of("sign_codes")
def test_sign_codes_of_nothing_and_of_one_row(encode, version):
    rows = torch.ones(1, 4)
    assert sign_codes(encode, version, rows, torch.tensor([0])).tolist() == [[15]]
    assert sign_codes(encode, version, rows, torch.empty(0, dtype=torch.int64)).shape == (0, 1)


# -------------------------------------------------------------------------------------------------- gather_unit_rows


def unit_rows(call, version, rows, ids, centroids, lists):
    out, kind = poisoned(19, rows.shape[1], dtype=torch.float32), ROW_KINDS.index(rows.dtype)
    arguments = rows, kind, ids, centroids, lists, 19, 15, rows.shape[1], 4, out
    assert call("gather_unit_rows_v", version, *arguments) == 0
    return out


@version_of("gather_unit_rows")
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("centre", [False, True])
def test_unit_rows_are_not_worse_than_torch(encode, version, dim, centre):
    rows, ids = torch.randn(15, dim) * 5, torch.randint(15, (19,))
    rows[1], ids[0] = 0, 1
    centroids, lists = (torch.randn(4, dim), torch.randint(4, (19,))) if centre else (None, None)
    out = unit_rows(encode, version, rows, ids, centroids, lists)
    exact, plain = (
        F.normalize(rows[ids].to(t), dim=1) - (centroids[lists].to(t) if centre else 0)
        for t in (torch.float64, torch.float32)
    )
    error, torchs = ((x - exact).abs().max() for x in (out, plain))
    assert error <= max(torchs, 1.2e-7 * exact.abs().max())
    for kind in ROW_KINDS[1:]:
        narrow = rows.to(kind)
        ours, floats = (
            unit_rows(encode, version, stored, ids, centroids, lists) for stored in (narrow, narrow.float())
        )
        assert torch.equal(ours, floats)


# -------------------------------------------------------------------------------------------------- row_argmax


@version_of("row_argmax")
@pytest.mark.parametrize("columns", [1, 3, 31, 32, 64, 130, 200])
def test_row_argmax_takes_the_lowest_of_equals(encode, version, columns):
    scores = torch.randint(-2, 2, (40, columns)).float()  # many ties
    scores[1], scores[2, :], scores[2, -1] = -torch.inf, torch.nan, -torch.inf
    scores[3], scores[3, -1] = 0.0, -0.0
    scores[4], scores[4, columns // 2] = -3e38, 3e38
    best = poisoned(40, dtype=torch.int64)
    assert encode("row_argmax_v", version, scores, 40, columns, best) == 0
    expected = scores.nan_to_num(nan=-torch.inf, neginf=-torch.inf, posinf=torch.inf).double().numpy().argmax(axis=1)
    expected[2] = columns - 1  # the only one that is a number
    assert best.tolist() == expected.tolist()


@version_of("row_argmax")
def test_nothing_but_nan_gives_column_0(encode, version):
    best = poisoned(2, dtype=torch.int64)
    assert encode("row_argmax_v", version, torch.full((2, 40), torch.nan), 2, 40, best) == 0
    assert best.tolist() == [0, 0]


# -------------------------------------------------------------------------------------------------- launchers


def test_the_launchers_of_the_ops_are_the_last_versions(encode):
    rows, ids = torch.randn(9, 64), torch.randint(9, (5,))
    for name, out, arguments in (
        ("sign_codes", poisoned(5, 1, dtype=torch.int64), (rows, False, ids, None, None, 5, 9, 64, 0, 1)),
        ("gather_unit_rows", poisoned(5, 64, dtype=torch.float32), (rows, False, ids, None, None, 5, 9, 64, 0)),
        ("row_argmax", poisoned(9, dtype=torch.int64), (rows, 9, 64)),
    ):
        last = out.clone()
        assert (
            encode(name, *arguments, out) == 0 == encode(f"{name}_v", versions("encode.cu", name)[-1], *arguments, last)
        )
        assert torch.equal(out, last) and not is_poisoned(out)


def test_a_version_that_is_not_there_does_nothing(encode):
    rows, out = torch.randn(3, 4), poisoned(3, 1, dtype=torch.int64)
    for version in (0, 99):
        assert encode("sign_codes_v", version, rows, False, None, None, None, 3, 3, 4, 0, 1, out) == 100
    assert is_poisoned(out)
