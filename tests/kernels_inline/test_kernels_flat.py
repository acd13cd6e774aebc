"""flat_map: plain torch against the NumPy reference, the op's checks, and what a score stands for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_examples import make_flat, make_starts, members

from annsoftmax_ref import backend
from annsoftmax_ref.reference import flat as ref
from kernels_inline import flat_ops
from kernels_inline.flat_threshold_ops import flat_thresholds_torch


@given(
    batch=st.integers(1, 7),
    count=st.integers(1, 2),
    num_rows=st.integers(1, 90),
    dim=st.sampled_from([1, 7, 63, 64, 65, 100, 128, 200]),
    groups=st.integers(1, 4),
    shift=st.integers(0, 3),
    kinds=st.sampled_from([1, 3, None]),
    seed=st.integers(0, 2**20),
)
@settings(max_examples=80, deadline=None)
def test_equals_the_reference(batch, count, num_rows, dim, groups, shift, kinds, seed):
    planes, codes, generator = make_flat(batch, count, num_rows, dim, seed=seed, kinds=kinds)
    thresholds = torch.randint(-9, dim * (2**count - 1), (batch,), generator=generator, dtype=torch.int32)
    starts = make_starts(batch, groups, generator)
    found = flat_ops.flat_map_torch(planes, thresholds, codes, starts, dim, shift)
    expected = ref.flat_map(planes.numpy(), thresholds.numpy(), codes.numpy(), members(starts), dim, shift)
    assert found.dtype == torch.uint8 and found.tolist() == expected.tolist()


def test_bytes_by_hand():
    codes = torch.tensor([[0b1111], [0b1110], [0b0000]])
    planes, starts = torch.tensor([[[0b1111]], [[0b0001]]]), torch.tensor([0, 1, 2, 2])
    thresholds = torch.tensor([3, -300], dtype=torch.int32)
    found = flat_ops.flat_map_torch(planes, thresholds, codes, starts, 4)
    assert found.tolist() == [[65, 64, 61], [254, 254, 254], [0, 0, 0]]
    assert flat_ops.flat_map_torch(planes, thresholds, codes, starts, 4, shift=1).tolist()[0] == [64, 64, 62]


def test_parts_do_not_change_the_result(monkeypatch):
    planes, codes, _ = make_flat(9, 2, 50, 70)
    starts = torch.tensor([0, 5, 9])
    thresholds = flat_thresholds_torch(planes, codes, 70, 5, 2, torch.tensor(0))
    found = flat_ops.flat_map_torch(planes, thresholds, codes, starts, 70)
    monkeypatch.setattr(flat_ops, "CHUNK", 1)
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
        scores = flat_ops.scores(flat_ops.query_planes(queries, count), codes, dim).float()
        left.append(1 - torch.corrcoef(torch.stack([scores.flatten(), exact.flatten()]))[0, 1].item() ** 2)
    # Of normal numbers 2 levels lose 1 - 2 / pi of the variance, and 4 of them 0.1188 (Max 1960).
    assert left == pytest.approx([0.363, 0.119], abs=0.03)


def test_passes_opcheck():
    planes, codes, _ = make_flat(4, 2, 30, 70)
    thresholds = torch.zeros(4, dtype=torch.int32)
    with backend.use("emulator"):
        torch.library.opcheck(flat_ops.flat_map.registered, (planes, thresholds, codes, torch.tensor([0, 1, 4]), 70, 1))


@pytest.mark.parametrize("count", [1, 2])
def test_the_op_runs_the_kernel_under_the_backend_emulator(count):
    planes, codes, generator = make_flat(6, count, 300, 200)
    starts = make_starts(6, 3, generator)
    thresholds = flat_thresholds_torch(planes, codes, 200, 20, 3, torch.tensor(1))
    with backend.use("emulator"):
        found = flat_ops.flat_map(planes, thresholds, codes, starts, 200, 1)
    assert torch.equal(found, flat_ops.flat_map_torch(planes, thresholds, codes, starts, 200, 1))


@pytest.mark.parametrize("op", [flat_ops.flat_map, flat_ops.flat_map_torch])
def test_bad_input_is_one_sentence(op):
    planes, codes, _ = make_flat(4, 1, 30, 70)
    thresholds, starts = torch.zeros(4, dtype=torch.int32), torch.tensor([0, 1, 4])
    good = dict(planes=planes, thresholds=thresholds, codes=codes, starts=starts, dim=70, shift=0)
    for change, message in (
        (dict(codes=codes[:, :1]), "codes is"),
        (dict(thresholds=thresholds[:3]), r"thresholds is .* shape \[3\] on cpu; it should be .* shape \[4\]"),
        (dict(thresholds=thresholds.long()), "thresholds is torch.int64"),
        (dict(starts=torch.tensor([0, 2, 3])), r"starts is \[0, 2, 3\]; it should rise from 0 to 4"),
        (dict(starts=torch.tensor([0, 5, 4])), "starts is"),
        (dict(starts=torch.tensor([4])), r"starts is .* shape \[1\]"),
        (dict(shift=-1), "shift is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            op(**{**good, **change})


def test_a_wrong_number_of_planes_is_one_sentence():
    with pytest.raises(ValueError, match="count is 3"):
        flat_ops.query_planes(torch.randn(2, 5), 3)
    with pytest.raises(ValueError, match="count is 3"):
        ref.query_planes(np.ones((2, 5)), 3)
