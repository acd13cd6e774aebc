"""checks.py as a head's users meet it: the table of what is refused."""

import copy
import math

import pytest
import torch
from small_heads import assert_same_state, made

from annsoftmax_ref import ANNSoftmax, NearestClasses, RandomClasses, RowSGD, SoftmaxHead, make_head

X, Y = torch.randn(4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(4)


def spoiled(value):
    x = X.clone()
    x[2] = value
    return x


@pytest.mark.parametrize(
    "call, error, words",
    [
        (lambda h: h(X, torch.tensor([0, 1, 2, 53])), ValueError, "labels holds 53; labels should be from 0 to 52"),
        (lambda h: h(X, torch.tensor([0, -1, 2, 3])), ValueError, "labels holds -1"),
        (lambda h: h(X, Y.double()), TypeError, "labels is of type torch.float64"),
        (lambda h: h(X, Y.int()), TypeError, "labels is of type torch.int32"),
        (lambda h: h(X, [0, 1, 2, 3]), TypeError, "labels is of type list"),
        (lambda h: h(X, Y[:3]), ValueError, r"labels has shape \[3\]; it should be \[4\]"),
        (lambda h: h(X[:, :9], Y), ValueError, r"embeddings has shape \[4, 9\]; it should be \[B, 10\]"),
        (lambda h: h(X.long(), Y), TypeError, "embeddings is of type torch.int64"),
        (lambda h: h(X[0], Y[:1]), ValueError, r"embeddings has shape \[10\]"),
        (lambda h: h(X[:0], Y[:0]), ValueError, "embeddings is an empty batch"),
        (lambda h: h(spoiled(math.nan), Y), ValueError, "embeddings holds NaN or infinite values"),
        (lambda h: h(spoiled(math.inf), Y), ValueError, "embeddings holds NaN or infinite values"),
        (lambda h: h(spoiled(-math.inf), Y), ValueError, "embeddings holds NaN or infinite values"),
        (lambda h: h(spoiled(0.0), Y), ValueError, r"embeddings has a row of zeros \(row 2\)"),
        (lambda h: h(X.repeat(10, 1), torch.arange(40)), ValueError, "distinct classes into a group, more than its 5"),
        (lambda h: h.topk(X, 54), ValueError, "k is 54"),
        (lambda h: h.topk(X, 0), ValueError, "k is 0"),
        (lambda h: h.logits(X, torch.tensor([53])), ValueError, "holds 53"),
        (lambda h: h.logits(X, torch.tensor([1.0])), ValueError, "classes has shape"),
        (lambda h: h.diagnose(X, Y + 50), ValueError, "labels holds 53"),
    ],
)
@pytest.mark.parametrize("selector", [lambda: RandomClasses(0.1), lambda: NearestClasses(0.1, groups=2)])
def test_bad_input_gets_one_clear_sentence_and_changes_nothing(call, error, words, selector):
    head = made(selector())
    optimizer = RowSGD(head.parameters(), lr=0.1, momentum=0.9)
    head(X, Y).backward()
    optimizer.step()
    state, steps = copy.deepcopy(head.state_dict()), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(error, match=words) as caught:
        call(head)
    assert "\n" not in str(caught.value)
    assert_same_state(head.state_dict(), state)
    assert torch.equal(optimizer.state_dict()["state"][0]["momentum_buffer"], steps["state"][0]["momentum_buffer"])


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: SoftmaxHead(0, 4), "num_classes is 0"),
        (lambda: SoftmaxHead(4, -1), "embedding_size is -1"),
        (lambda: make_head("fast", 4, 4), "head is 'fast'"),
        (lambda: ANNSoftmax(100, 8, sample_rate=2), "sample_rate is 2"),
        (lambda: ANNSoftmax(100, 8, nlist=8, nprobe=9), "nprobe is 9"),
    ],
)
def test_bad_heads_are_refused_when_made(build, words):
    with pytest.raises(ValueError, match=words):
        build()
