"""annsoftmax::rerank against the torch package, the float64 reference, and itself on other instruction sets."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_examples import rerank_example

from annsoftmax_ref import reference as ref
from kernels_inline import build
from kernels_inline.checks import ROW_KINDS
from kernels_inline.rerank_ops import rerank, rerank_torch


@pytest.mark.parametrize("flags", build.VARIANTS.values(), ids=build.VARIANTS)
@pytest.mark.parametrize("n, d, b, k", [(50, 7, 3, 11), (200, 128, 5, 64), (1, 1, 1, 1), (30, 65, 2, 0)])
def test_cosines_and_order(flags, n, d, b, k):
    queries, rows, ids = rerank_example(n, d, b, k)
    with build.using(flags):
        ordered, cosines = rerank(queries, rows, ids)
    exact = torch.from_numpy(ref.cosine_logits(queries.double().numpy(), rows.double().numpy()))
    for i in range(b):
        assert ordered[i].sort().values.tolist() == ids[i].sort().values.tolist()
        there = ordered[i] >= 0
        assert (there.long().diff() <= 0).all() and (cosines[i].diff() <= 0)[: int(there.sum()) - 1].all()
        torch.testing.assert_close(cosines[i][there].double(), exact[i, ordered[i][there]], rtol=0, atol=3e-7)
        assert (cosines[i][~there] == -torch.inf).all()
    for kind in ROW_KINDS[1:]:
        narrow = rows.to(kind)
        with build.using(flags):
            ours, floats = (rerank(queries, stored, ids) for stored in (narrow, narrow.float()))
        torch.testing.assert_close(ours[1], floats[1], rtol=0, atol=3e-7)


def test_equal_cosines_come_lower_id_first():
    queries, rows, _ = rerank_example(10, 16, 1, 1)
    rows = rows[torch.zeros(10, dtype=torch.int64)]
    assert rerank(queries, rows.contiguous(), torch.tensor([[7, -1, 3, 9, 0]]))[0].tolist() == [[0, 3, 7, 9, -1]]


def test_a_row_of_zeros_has_cosine_zero():
    queries, rows, _ = rerank_example(3, 8, 1, 1)
    rows[1] = 0
    assert rerank(queries, rows, torch.tensor([[1]]))[1].item() == 0.0


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 40), d=st.integers(1, 70), b=st.integers(1, 4), k=st.integers(0, 50), seed=st.integers(0, 10**6)
)
def test_any_sizes_repeats_and_ties(n, d, b, k, seed):
    queries, rows, ids = rerank_example(n, d, b, k, seed)
    rows = rows[torch.arange(n) // 2 * 2]  # every other row a copy: ties
    ordered, cosines = rerank(queries, rows, ids)
    expected, expected_cosines = rerank_torch(queries, rows, ids) if k else (ids, cosines)
    torch.testing.assert_close(cosines, expected_cosines, rtol=0, atol=1e-6)
    # Only cosines that are equal to rounding may stand in another order.
    swapped = ordered != expected
    assert (cosines[swapped] - expected_cosines[swapped]).abs().le(1e-6).all()


def test_opcheck():
    torch.library.opcheck(rerank.registered, rerank_example(20, 8, 3, 5))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda q, r, i: (q.double(), r, i), "queries is torch.float64"),
        (lambda q, r, i: (q, r[:, :4], i), "rows is"),
        (lambda q, r, i: (q, r, i[:2]), "ids"),
        (lambda q, r, i: (q, r, i + 20), "ids holds values"),
    ],
)
def test_bad_arguments_get_one_clear_sentence(change, words):
    with pytest.raises(ValueError, match=words):
        rerank(*change(*rerank_example(20, 8, 3, 5)))
