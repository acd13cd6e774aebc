"""``union_active``: equal to the plain torch one, number for number."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from annsoftmax_ref import active_sets, backend
from kernels_inline import build, sets_ops

pytestmark = pytest.mark.skipif(not build.available(), reason=str(build.why_not()))


@given(
    num_classes=st.integers(1, 300),
    batch=st.integers(1, 20),
    k=st.integers(0, 30),
    length=st.integers(0, 200),
    missing=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 2**20),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_equals_plain_torch(num_classes, batch, k, length, missing, seed, data):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (batch,), generator=generator)
    candidates = torch.randint(num_classes, (batch, k), generator=generator)
    candidates[torch.rand(batch, k, generator=generator) < missing] = -1
    fill_order = torch.randint(num_classes, (length,), generator=generator)
    count = data.draw(st.integers(len(labels.unique()), num_classes))
    arguments = (candidates, labels, fill_order, count, num_classes)
    with backend.use("torch"):
        expected = active_sets.union_active(*arguments)
    for name, flags in build.runnable_variants().items():
        with build.using(flags):
            classes, targets = sets_ops.union_active(*arguments)
        assert torch.equal(classes, expected[0]) and torch.equal(targets, expected[1]), name
    assert len(classes) == count and torch.equal(classes[targets], labels)


def test_too_many_labels_say_the_same_as_plain_torch():
    arguments = (torch.zeros(5, 2, dtype=torch.int64), torch.arange(5), torch.zeros(0, dtype=torch.int64), 4, 9)
    with backend.use("torch"), pytest.raises(ValueError) as expected:
        active_sets.union_active(*arguments)
    with pytest.raises(ValueError) as found:
        sets_ops.union_active(*arguments)
    assert str(found.value) == str(expected.value)


def test_bad_input_is_one_sentence():
    good = dict(
        candidates=torch.tensor([[1, 2], [3, -1]]),
        labels=torch.tensor([0, 5]),
        fill_order=torch.tensor([7]),
        count=6,
        num_classes=9,
    )
    cases = [
        (dict(labels=torch.tensor([0, 9])), ValueError, "labels holds a class id"),
        (dict(candidates=torch.tensor([[1, 2], [3, 9]])), ValueError, "candidates holds a class id"),
        (dict(fill_order=torch.tensor([-1])), ValueError, "fill_order holds a class id"),
        (dict(count=10), ValueError, "count is 10; it should be from 0 to num_classes, 9"),
        (dict(labels=torch.tensor([0])), ValueError, r"shapes \[2, 2\], \[1\]"),
        (dict(labels=torch.tensor([0.0, 1.0])), TypeError, "labels is torch.float32"),
        (dict(candidates=good["candidates"].T), ValueError, "candidates has strides"),
    ]
    for change, error, message in cases:
        with pytest.raises(error, match=message):
            sets_ops.union_active(**{**good, **change})


def test_passes_opcheck():
    torch.library.opcheck(
        sets_ops.union_active, (torch.tensor([[1, 2], [3, -1]]), torch.tensor([0, 5]), torch.tensor([7]), 6, 9)
    )
