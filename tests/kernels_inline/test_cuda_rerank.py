"""rerank.cu: every version against the float64 reference, and what the C++ kernel gives."""

import pytest
import torch
from cuda_runners import RUNNERS, poisoned, runner, versions
from kernel_examples import rerank_example

from annsoftmax_ref import reference as ref
from annsoftmax_ref.reference.index import exact_order
from kernels_inline import build
from kernels_inline.checks import ROW_KINDS
from kernels_inline.rerank_ops import rerank as rerank_op

by_version = pytest.mark.parametrize("version", versions("rerank.cu", "rerank"))


@pytest.fixture(params=RUNNERS)
def rerank(request):
    return runner(request.param, "rerank.cu")


def ordered(call, version, queries, rows, ids):
    ids_out, cosines = poisoned(*ids.shape, dtype=torch.int64), poisoned(*ids.shape, dtype=torch.float32)
    kind = ROW_KINDS.index(rows.dtype)
    assert call("rerank_v", version, queries, rows, kind, ids, *ids.shape, queries.shape[1], ids_out, cosines) == 0
    return ids_out, cosines


@by_version
@pytest.mark.parametrize("n, d, b, k", [(50, 7, 3, 11), (90, 128, 2, 64), (1, 1, 1, 1), (30, 65, 2, 33), (9, 36, 4, 1)])
def test_cosines_and_order(rerank, version, n, d, b, k):
    queries, rows, ids = rerank_example(n, d, b, k)
    found, cosines = ordered(rerank, version, queries, rows, ids)
    exact = torch.from_numpy(ref.cosine_logits(queries.double().numpy(), rows.double().numpy()))
    for i in range(b):
        there = found[i] >= 0
        assert found[i].sort().values.tolist() == ids[i].sort().values.tolist()
        torch.testing.assert_close(cosines[i][there].double(), exact[i, found[i][there]], rtol=0, atol=5e-7)
        assert (cosines[i][~there] == -torch.inf).all()
        keys = list(zip((-cosines[i]).tolist(), (found[i] % (n + 1)).tolist(), strict=True))  # -1 becomes n
        assert keys == sorted(keys)
    for kind in ROW_KINDS[1:]:
        narrow = rows.to(kind)
        ours, floats = (ordered(rerank, version, queries, stored, ids) for stored in (narrow, narrow.float()))
        assert all(torch.equal(*pair) for pair in zip(ours, floats, strict=True))


@by_version
def test_equal_rows_and_repeats_come_lower_id_first(rerank, version):
    queries, rows, ids = rerank_example(40, 24, 3, 50)
    rows = rows[torch.arange(40) // 4 * 4].contiguous()  # ties of four
    found, cosines = ordered(rerank, version, queries, rows, ids)
    unit = ref.normalize(rows.double().numpy())
    for i, query in enumerate(queries.double().numpy()):
        expected, exact = exact_order(query, unit, ids[i][ids[i] >= 0].numpy())
        assert found[i, : len(expected)].tolist() == expected.tolist() and (found[i, len(expected) :] == -1).all()
        torch.testing.assert_close(cosines[i, : len(exact)].double(), torch.from_numpy(exact), rtol=0, atol=5e-7)


@by_version
def test_zeros_opposites_and_signs(rerank, version):
    """A row of zeros has cosine 0, as has a perpendicular one; the first row's is -0, and 0 and -0 are equal."""
    rows = torch.tensor([[-1e-30, 1e18], [-1, 0], [0, 0], [3, 0], [0, 5]])
    queries, ids = torch.tensor([[1.0, 0], [-1, 0]]), torch.tensor([[4, 3, -1, 2, 1, 0]] * 2)
    found, cosines = ordered(rerank, version, queries, rows, ids)
    assert found.tolist() == [[3, 0, 2, 4, 1, -1], [1, 0, 2, 4, 3, -1]]
    assert cosines.tolist() == [[1, 0, 0, 0, -1, -torch.inf]] * 2


def test_keys_that_do_not_fit_into_shared_memory(rerank):
    queries, rows, ids = rerank_example(50, 4, 1, 6200)
    found, cosines = ordered(rerank, 3, queries, rows, ids)
    there = int((ids >= 0).sum())
    assert found.sort().values.tolist() == ids.sort().values.tolist() and (found[0, there:] == -1).all()
    assert (cosines[0, :there].diff() <= 0).all()


@pytest.mark.skipif(not build.available(), reason=str(build.why_not()))
def test_rerank_gives_what_the_cpu_kernel_gives(rerank):
    queries, rows, ids = rerank_example(60, 40, 3, 20)
    found, cosines = ordered(rerank, 3, queries, rows, ids)
    expected, exact = rerank_op(queries, rows, ids)
    assert torch.equal(found, expected)
    torch.testing.assert_close(cosines, exact, rtol=0, atol=5e-7)


def test_a_version_that_does_not_exist(rerank):
    assert rerank("rerank_v", 0, None, None, 0, None, 0, 0, 0, None, None) == 100
