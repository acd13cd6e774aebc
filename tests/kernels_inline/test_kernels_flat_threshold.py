"""flat_thresholds: plain torch against the NumPy reference, the op's checks, and how many classes come through."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_examples import make_flat

from annsoftmax_ref import backend
from annsoftmax_ref.reference import flat as ref
from kernels_inline import flat_ops
from kernels_inline.flat_threshold_ops import flat_thresholds, flat_thresholds_torch

START = torch.tensor(0)


@given(
    batch=st.integers(1, 7),
    count=st.integers(1, 2),
    num_rows=st.integers(1, 90),
    dim=st.sampled_from([1, 7, 63, 64, 65, 100, 128, 200]),
    k=st.integers(1, 120),
    stride=st.integers(1, 9),
    kinds=st.sampled_from([1, 3, None]),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=80, deadline=None)
def test_equals_the_reference(batch, count, num_rows, dim, k, stride, kinds, seed):
    planes, codes, generator = make_flat(batch, count, num_rows, dim, seed=seed, kinds=kinds)
    first = int(torch.randint(min(stride, num_rows), (1,), generator=generator))
    thresholds = flat_thresholds_torch(planes, codes, dim, k, stride, torch.tensor(first))
    expected = ref.flat_thresholds(planes.numpy(), codes.numpy(), dim, k, stride, first)
    assert thresholds.dtype == torch.int32 and thresholds.tolist() == expected.tolist()


def test_thresholds_by_hand():
    codes = torch.tensor([[0b1111], [0b1110], [0b0000]])
    planes = torch.tensor([[[0b1111]], [[0b0001]]])
    assert flat_thresholds_torch(planes, codes, 4, k=2, stride=1, first=START).tolist() == [3, 1]


def test_parts_do_not_change_the_result(monkeypatch):
    planes, codes, _ = make_flat(9, 2, 50, 70)
    thresholds = flat_thresholds_torch(planes, codes, 70, 5, 2, START)
    monkeypatch.setattr(flat_ops, "CHUNK", 1)
    assert torch.equal(flat_thresholds_torch(planes, codes, 70, 5, 2, START), thresholds)


def test_thresholds_let_about_k_classes_through():
    planes, codes, _ = make_flat(20, 1, 4000, 128)
    thresholds = flat_thresholds_torch(planes, codes, 128, k=400, stride=8, first=START)
    reached = (flat_ops.scores(planes, codes, 128) >= thresholds.unsqueeze(1)).sum(dim=1)
    assert 300 < reached.float().mean() < 600
    exact = flat_thresholds_torch(planes, codes, 128, k=400, stride=1, first=START)
    reached = flat_ops.scores(planes, codes, 128)
    assert ((reached >= exact.unsqueeze(1)).sum(dim=1) >= 400).all()
    assert ((reached > exact.unsqueeze(1)).sum(dim=1) < 400).all()


@pytest.mark.parametrize("count", [1, 2])
def test_the_op_runs_the_kernel_under_the_backend_emulator(count):
    planes, codes, _ = make_flat(6, count, 300, 200)
    with backend.use("emulator"):
        thresholds = flat_thresholds(planes, codes, 200, 20, 3, START + 1)
    assert torch.equal(thresholds, flat_thresholds_torch(planes, codes, 200, 20, 3, START + 1))


def test_passes_opcheck():
    planes, codes, _ = make_flat(4, 2, 30, 70)
    with backend.use("emulator"):
        torch.library.opcheck(flat_thresholds.registered, (planes, codes, 70, 5, 2, START + 1))


@pytest.mark.parametrize("op", [flat_thresholds, flat_thresholds_torch])
def test_bad_input_is_one_sentence(op):
    planes, codes, _ = make_flat(4, 1, 30, 70)
    good = dict(planes=planes, codes=codes, dim=70, k=5, stride=2, first=START + 1)
    for change, message in (
        (dict(planes=planes.int()), "planes is torch.int32"),
        (dict(planes=planes[:, 0]), r"planes is .* shape \[4, 2\] on cpu; it should be .* shape \[B, 1, 2\]"),
        (dict(dim=0), "dim is 0"),
        (dict(dim=129), r"planes is .* shape \[4, 1, 2\] on cpu; it should be .* shape \[B, 1, 3\]"),
        (dict(codes=codes[:, :1]), "codes is"),
        (dict(codes=codes[:0]), r"codes is .* shape \[0, 2\]"),
        (dict(codes=codes.T.contiguous().T), "codes is .* strides"),
        (dict(k=0), "k is 0"),
        (dict(stride=0), "stride is 0"),
        (dict(first=START + 2), "first is 2; it should be from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            op(**{**good, **change})
    with pytest.raises(ValueError, match="k is 0"):
        ref.flat_thresholds(planes.numpy(), codes.numpy(), 70, 0)
