"""One norm of all gradients: torch's, for dense ones; over processes and sparse gradients, that of one process."""

import pytest
import torch
from ranks import on_ranks
from sharded import make_case, make_head

from annsoftmax_ref import CosFace, RandomClasses, SoftmaxHead, clip_grad_norm_


@pytest.mark.parametrize("max_norm", [0.1, 1e6])
def test_dense_gradients_are_clipped_as_torch_does(max_norm):
    case = make_case(20, 8)
    linear = torch.nn.Linear(6, 6).double()
    head = make_head(case, CosFace)
    head(linear(case.x), case.y).backward()
    grads = [p.grad.clone() for p in (*linear.parameters(), *head.parameters())]
    twins = [torch.zeros_like(g, requires_grad=True) for g in grads]
    for twin, grad in zip(twins, grads, strict=True):
        twin.grad = grad.clone()
    expected = torch.nn.utils.clip_grad_norm_(twins, max_norm)
    assert torch.isclose(clip_grad_norm_(linear.parameters(), head, max_norm), expected)
    for part, twin in zip((*linear.parameters(), *head.parameters()), twins, strict=True):
        assert torch.allclose(part.grad, twin.grad)


def test_sparse_and_split_gradients_have_the_norm_of_one_process():
    case = make_case(20, 9)

    def of_rank(rank, group):
        head = SoftmaxHead(20, 6, RandomClasses(1.0, groups=2), CosFace(), dtype=torch.float64, process_group=group)
        with torch.no_grad():
            head.weight.copy_(case.weight[head.shards.first : head.shards.last])
        head(case.x[rank::3], case.y[rank::3]).backward()
        assert head.weight.grad.is_sparse
        norm = clip_grad_norm_([], head, 0.5)
        return norm.item(), head.weight.grad.to_dense()

    head = make_head(case, CosFace)
    head(case.x, case.y).backward()
    expected = clip_grad_norm_([], head, 0.5)
    norms, rows = zip(*on_ranks(3, of_rank), strict=True)
    assert all(abs(norm - expected.item()) < 1e-12 for norm in norms)
    assert torch.allclose(torch.cat(rows), head.weight.grad)
    assert abs(torch.cat(rows).norm().item() - 0.5) < 1e-5


def test_a_norm_to_clip_to_is_above_0():
    with pytest.raises(ValueError, match="^max_norm is 0; it should be above 0"):
        clip_grad_norm_([], None, 0)
