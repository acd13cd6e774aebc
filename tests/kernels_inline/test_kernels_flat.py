"""flat_thresholds and flat_map: plain torch against the NumPy reference, the ops' checks, what a score stands for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_kernels_search import random_words

from annsoftmax_ref import backend
from annsoftmax_ref.reference import flat as ref
from kernels_inline import flat_ops


def make_flat(batch, count, num_rows, dim, *, seed=0, kinds=None):
    """planes [batch, count, W] and codes [num_rows, W]; kinds: how many different codes there are (None: all)."""
    generator = torch.Generator().manual_seed(seed)
    words = -(-dim // 64)
    planes = random_words(batch, count, words, generator=generator)
    codes = random_words(kinds or num_rows, words, generator=generator)
    for x in (planes, codes):
        if dim % 64:
            x[..., -1] &= (1 << dim % 64) - 1
    return planes, codes[torch.randint(len(codes), (num_rows,), generator=generator)], generator


def make_starts(batch, groups, generator):
    """groups of random sizes, empty ones among them."""
    cuts = torch.randint(batch + 1, (groups - 1,), generator=generator).sort().values
    return torch.cat([torch.tensor([0]), cuts, torch.tensor([batch])])


def members(starts):
    ends = starts.tolist()
    return [np.arange(a, b) for a, b in zip(ends, ends[1:], strict=False)]


@given(
    batch=st.integers(1, 7),
    count=st.integers(1, 2),
    num_rows=st.integers(1, 90),
    dim=st.sampled_from([1, 7, 63, 64, 65, 100, 128, 200]),
    k=st.integers(1, 120),
    stride=st.integers(1, 9),
    groups=st.integers(1, 4),
    shift=st.integers(0, 3),
    kinds=st.sampled_from([1, 3, None]),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=80, deadline=None)
def test_equals_the_reference(batch, count, num_rows, dim, k, stride, groups, shift, kinds, seed):
    planes, codes, generator = make_flat(batch, count, num_rows, dim, seed=seed, kinds=kinds)
    first = int(torch.randint(min(stride, num_rows), (1,), generator=generator))
    thresholds = flat_ops.flat_thresholds_torch(planes, codes, dim, k, stride, first)
    expected = ref.flat_thresholds(planes.numpy(), codes.numpy(), dim, k, stride, first)
    assert thresholds.dtype == torch.int32 and thresholds.tolist() == expected.tolist()
    starts = make_starts(batch, groups, generator)
    found = flat_ops.flat_map_torch(planes, thresholds, codes, starts, dim, shift)
    expected = ref.flat_map(planes.numpy(), expected, codes.numpy(), members(starts), dim, shift)
    assert found.dtype == torch.uint8 and found.tolist() == expected.tolist()


def test_bytes_by_hand():
    codes = torch.tensor([[0b1111], [0b1110], [0b0000]])
    planes, starts = torch.tensor([[[0b1111]], [[0b0001]]]), torch.tensor([0, 1, 2, 2])
    thresholds = torch.tensor([3, -300], dtype=torch.int32)
    found = flat_ops.flat_map_torch(planes, thresholds, codes, starts, 4)
    assert found.tolist() == [[65, 64, 61], [254, 254, 254], [0, 0, 0]]
    assert flat_ops.flat_map_torch(planes, thresholds, codes, starts, 4, shift=1).tolist()[0] == [64, 64, 62]
    assert flat_ops.flat_thresholds_torch(planes, codes, 4, k=2, stride=1).tolist() == [3, 1]


def test_parts_do_not_change_the_result(monkeypatch):
    planes, codes, _ = make_flat(9, 2, 50, 70)
    starts = torch.tensor([0, 5, 9])
    thresholds = flat_ops.flat_thresholds_torch(planes, codes, 70, 5, 2)
    found = flat_ops.flat_map_torch(planes, thresholds, codes, starts, 70)
    monkeypatch.setattr(flat_ops, "CHUNK", 1)
    assert torch.equal(flat_ops.flat_thresholds_torch(planes, codes, 70, 5, 2), thresholds)
    assert torch.equal(flat_ops.flat_map_torch(planes, thresholds, codes, starts, 70), found)


@pytest.mark.parametrize("count", [1, 2])
def test_query_planes_equal_the_reference(count):
    queries = torch.randn(20, 70, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    queries[0] = 0
    assert np.array_equal(flat_ops.query_planes(queries, count).numpy(), ref.query_planes(queries.numpy(), count))


def test_a_score_stands_for_the_query_times_the_signs_and_two_planes_are_better():
    generator = torch.Generator().manual_seed(0)
    dim, queries = 256, torch.randn(30, 256, generator=generator)
    signs = torch.randn(200, dim, generator=generator) > 0
    codes, exact = torch.from_numpy(ref.pack_bits(signs.numpy())), queries @ (2.0 * signs - 1).T
    left = []
    for count in (1, 2):
        scores = flat_ops._scores(flat_ops.query_planes(queries, count), codes, dim).float()
        left.append(1 - torch.corrcoef(torch.stack([scores.flatten(), exact.flatten()]))[0, 1].item() ** 2)
    # Of normal numbers 2 levels lose 1 - 2 / pi of the variance, and 4 of them 0.1188 (Max 1960).
    assert left == pytest.approx([0.363, 0.119], abs=0.03)


def test_thresholds_let_about_k_classes_through():
    planes, codes, _ = make_flat(20, 1, 4000, 128)
    thresholds = flat_ops.flat_thresholds_torch(planes, codes, 128, k=400, stride=8)
    reached = (flat_ops._scores(planes, codes, 128) >= thresholds.unsqueeze(1)).sum(dim=1)
    assert 300 < reached.float().mean() < 600
    exact = flat_ops.flat_thresholds_torch(planes, codes, 128, k=400, stride=1)
    reached = flat_ops._scores(planes, codes, 128)
    assert ((reached >= exact.unsqueeze(1)).sum(dim=1) >= 400).all()
    assert ((reached > exact.unsqueeze(1)).sum(dim=1) < 400).all()


def test_passes_opcheck():
    planes, codes, _ = make_flat(4, 2, 30, 70)
    thresholds = torch.zeros(4, dtype=torch.int32)
    with backend.use("emulator"):
        torch.library.opcheck(flat_ops.flat_thresholds, (planes, codes, 70, 5, 2, 1))
        torch.library.opcheck(flat_ops.flat_map, (planes, thresholds, codes, torch.tensor([0, 1, 4]), 70, 1))


@pytest.mark.parametrize("count", [1, 2])
def test_the_ops_run_the_kernels_under_the_backend_emulator(count):
    planes, codes, generator = make_flat(6, count, 300, 200)
    starts = make_starts(6, 3, generator)
    with backend.use("emulator"):
        thresholds = flat_ops.flat_thresholds(planes, codes, 200, 20, 3, 1)
        found = flat_ops.flat_map(planes, thresholds, codes, starts, 200, 1)
    assert torch.equal(thresholds, flat_ops.flat_thresholds_torch(planes, codes, 200, 20, 3, 1))
    assert torch.equal(found, flat_ops.flat_map_torch(planes, thresholds, codes, starts, 200, 1))


def test_bad_input_is_one_sentence():
    planes, codes, _ = make_flat(4, 1, 30, 70)
    thresholds, starts = torch.zeros(4, dtype=torch.int32), torch.tensor([0, 1, 4])
    one = dict(planes=planes, codes=codes, dim=70, k=5, stride=2, first=1)
    many = dict(planes=planes, thresholds=thresholds, codes=codes, starts=starts, dim=70, shift=0)
    cases = [
        (one, dict(planes=planes.int()), TypeError, "planes is torch.int32"),
        (one, dict(planes=planes[:, 0]), ValueError, r"planes has shape \[4, 2\]"),
        (one, dict(dim=0), ValueError, "dim is 0"),
        (one, dict(dim=129), ValueError, r"planes has shape \[4, 1, 2\]; it should be \[4, 1, 3\]"),
        (one, dict(codes=codes[:, :1]), ValueError, "codes has shape"),
        (one, dict(codes=codes[:0]), ValueError, "codes has shape"),
        (one, dict(codes=codes.T.contiguous().T), ValueError, "codes has strides"),
        (one, dict(k=0), ValueError, "k is 0"),
        (one, dict(stride=0), ValueError, "stride is 0"),
        (one, dict(first=2), ValueError, "first is 2; it should be from 0 to 1"),
        (many, dict(thresholds=thresholds[:3]), ValueError, "thresholds has shape"),
        (many, dict(thresholds=thresholds.long()), TypeError, "thresholds is torch.int64"),
        (many, dict(starts=torch.tensor([0, 2, 3])), ValueError, r"starts is \[0, 2, 3\]; it should rise from 0 to 4"),
        (many, dict(starts=torch.tensor([0, 5, 4])), ValueError, "starts is"),
        (many, dict(starts=torch.tensor([4])), ValueError, "starts has shape"),
        (many, dict(shift=-1), ValueError, "shift is -1"),
    ]
    for good, change, error, message in cases:
        for form in ("", "_torch"):
            op = getattr(flat_ops, ("flat_thresholds" if good is one else "flat_map") + form)
            with pytest.raises(error, match=message):
                op(**{**good, **change})
    with pytest.raises(ValueError, match="count is 3"):
        flat_ops.query_planes(torch.randn(2, 5), 3)
    with pytest.raises(ValueError, match="count is 3"):
        ref.query_planes(np.ones((2, 5)), 3)
    with pytest.raises(ValueError, match="k is 0"):
        ref.flat_thresholds(planes.numpy(), codes.numpy(), 70, 0)
