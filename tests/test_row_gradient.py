"""Row-sparse gradients under what is made for dense ones: clipped the same, by torch's own functions."""

import copy
import io

import pytest
import torch
from ranks import on_ranks

from annsoftmax_ref import AllClasses, RandomClasses, RowSGD, SoftmaxHead, clip_grad_norm_
from annsoftmax_ref.row_gradient import RowGradient, ShardGradient

N, D, B = 40, 6, 8


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(B, D, generator=generator), torch.randint(N, (B,), generator=generator)


def after(batches, clip, **options):
    """A head's dense gradients after so many backward passes, and what ``clip`` returned."""
    head = SoftmaxHead(N, D, RandomClasses(0.3), bias=True, **options)
    for seed in range(batches):
        head(*batch(seed)).backward()
    assert all(p.grad.is_sparse == head.sparse for p in head.parameters())
    norm = clip(head)
    return norm, [p.grad.to_dense() for p in head.parameters()]


CLIPS = {
    "norm": lambda head: torch.nn.utils.clip_grad_norm_(head.parameters(), 0.1),
    "no more than it has": lambda head: torch.nn.utils.clip_grad_norm_(head.parameters(), 1e6),
    "largest number": lambda head: torch.nn.utils.clip_grad_norm_(head.parameters(), 0.1, norm_type=torch.inf),
    "value": lambda head: torch.nn.utils.clip_grad_value_(head.parameters(), 0.01),
    "our own": lambda head: clip_grad_norm_([], head, 0.1),
    "our own, given twice": lambda head: clip_grad_norm_(head.parameters(), head, 0.1),
    "our own, as any parameters": lambda head: clip_grad_norm_(head.parameters(), None, 0.1),
}


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("clip", CLIPS)
def test_clipping_is_that_of_the_dense_gradient(clip, batches):
    norm, found = after(batches, CLIPS[clip])
    expected, dense = after(batches, CLIPS[clip], sparse=False)
    if norm is not None:
        torch.testing.assert_close(norm, expected)
    for a, b in zip(found, dense, strict=True):
        torch.testing.assert_close(a, b)


def test_rows_that_stand_twice_in_a_gradient_are_summed_before_a_norm_is_taken():
    """As a GPU's accumulation leaves them."""
    head = SoftmaxHead(N, D, RandomClasses(0.3))
    head(*batch()).backward()
    ids, values = torch.tensor([[3, 3]]), torch.tensor([[3.0] * D, [-1.0] * D])
    for clip in (lambda: torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0), lambda: clip_grad_norm_([], head, 1)):
        with torch._C.DisableTorchFunctionSubclass():
            head.weight.grad.data = torch.sparse_coo_tensor(ids, values, (N, D), check_invariants=False)
        assert clip().item() == pytest.approx(2 * D**0.5)
        assert head.weight.grad.to_dense()[3].norm().item() == pytest.approx(1.0, abs=1e-5)


def test_to_all_else_it_is_a_plain_sparse_tensor():
    head = SoftmaxHead(N, D, RandomClasses(0.3))
    head(*batch()).backward()
    grad = head.weight.grad
    assert type(grad) is RowGradient and grad.is_coalesced()  # the head's rows are distinct, and nobody need sort them
    assert type(grad * 2) is type(grad.clone()) is type(copy.deepcopy(grad)) is type(grad.to_dense()) is torch.Tensor
    assert repr(grad).startswith("tensor(indices=")
    file = io.BytesIO()
    torch.save(grad, file)
    file.seek(0)
    assert torch.equal(torch.load(file).to_dense(), grad.to_dense())
    head.zero_grad(set_to_none=False)
    assert head.weight.grad.to_dense().abs().sum() == 0


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda head: torch.load(saved(head), weights_only=False)])
def test_the_gradient_of_a_copy_is_one_too(twin):
    head = twin(SoftmaxHead(N, D, RandomClasses(0.3), bias=True))
    head(*batch()).backward()
    assert all(type(p.grad) is RowGradient for p in head.parameters())


def saved(head):
    file = io.BytesIO()
    torch.save(head, file)
    file.seek(0)
    return file


def test_clipping_does_not_change_what_a_step_does():
    ends = []
    for sparse in (True, False):
        head = SoftmaxHead(N, D, RandomClasses(0.3), sparse=sparse)
        optimizer = RowSGD(head.parameters(), lr=0.5, momentum=0.9)
        for seed in range(6):
            head(*batch(seed)).backward()
            head(*batch(seed + 10)).backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()
        ends.append(head.weight.detach().clone())
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize("selector", [lambda: RandomClasses(0.5), AllClasses])
def test_a_norm_of_a_part_of_the_classes_is_refused_by_a_sentence_that_names_ours(selector):
    def of_rank(rank, group):
        head = SoftmaxHead(N, D, selector(), process_group=group)
        head(*batch(rank)).backward()
        assert type(head.weight.grad) is ShardGradient
        with pytest.raises(ValueError, match=r"split over processes.*call annsoftmax_ref.clip_grad_norm_\(backbone"):
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        return clip_grad_norm_([], head, 1.0).item()

    first, second = on_ranks(2, of_rank)
    assert first == second
