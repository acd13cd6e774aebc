"""kernel_op.py: which calls go to the function itself, which to torch's dispatcher, and what both leave behind."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from kernels_inline import build
from kernels_inline.encode_ops import assign, encode
from kernels_inline.head_ops import normalise_backward_
from kernels_inline.kernel_op import LAUNCHERS, KernelOp
from kernels_inline.softmax_ops import margin_softmax_

pytestmark = pytest.mark.skipif(not build.available(), reason=str(build.why_not()))


@pytest.fixture
def dispatched(monkeypatch):
    """The names of the ops that went through torch's dispatcher."""
    names = []
    for op in LAUNCHERS:
        registered = op.registered

        def noted(*arguments, registered=registered, **named):
            names.append(registered._qualname)
            return registered(*arguments, **named)

        monkeypatch.setattr(op, "registered", noted)
    return names


def rows(n=6, d=8):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def test_plain_tensors_go_to_the_function_itself(dispatched):
    assert torch.equal(assign(rows(), rows(3)), assign.registered(rows(), rows(3)))
    assert dispatched == ["annsoftmax::assign"]  # the second of the two


def test_fake_tensors_and_compiled_code_go_to_the_dispatcher(dispatched):
    with FakeTensorMode():
        assert assign(torch.empty(6, 8), torch.empty(3, 8)).shape == (6,)
    assert dispatched == ["annsoftmax::assign"]


def test_what_a_gradient_is_wanted_of_is_not_taken_in_silence(dispatched):
    leaf = rows().requires_grad_()
    with torch.no_grad():
        assign(leaf, rows(3))
    assert dispatched == []
    assign(leaf, rows(3))
    assert dispatched == ["annsoftmax::assign"]


def test_what_is_written_to_says_so_either_way():
    for call in (margin_softmax_, margin_softmax_.registered):
        cosine = torch.zeros(2, 3)
        before = cosine._version
        call(cosine, torch.tensor([0, 1]), 0, 1.0, 0.0, 0.5)
        assert cosine._version > before
    saved = torch.ones(3, 8, requires_grad=True)
    grad = rows(3) * 1
    product = (saved * grad).sum()  # keeps grad for its backward pass
    normalise_backward_(grad, rows(), torch.arange(3), torch.ones(3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_arguments_may_be_named_and_the_docstring_is_the_functions():
    assert torch.equal(encode(rows=rows(), ids=torch.arange(2)), encode(rows(), torch.arange(2)))
    assert all(isinstance(op, KernelOp) and op.__doc__ and op.__name__ in repr(op) for op in LAUNCHERS)
