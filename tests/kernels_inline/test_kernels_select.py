"""``union_active`` and ``select_map``: equal to plain torch and to the reference, number for number."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from annsoftmax_ref import active_sets, backend
from annsoftmax_ref.grouping import random_groups
from annsoftmax_ref.reference.flat_select import select_map as select_map_reference
from kernels_inline import build
from kernels_inline.select_ops import select_map, select_map_torch, union_active

pytestmark = pytest.mark.skipif(not build.available(), reason=str(build.why_not()))


@given(
    num_classes=st.integers(1, 300),
    batch=st.integers(1, 20),
    groups=st.integers(1, 5),
    k=st.integers(0, 30),
    length=st.integers(0, 200),
    missing=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 2**20),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_equals_plain_torch(num_classes, batch, groups, k, length, missing, seed, data):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (batch,), generator=generator)
    candidates = torch.randint(num_classes, (batch, k), generator=generator)
    candidates[torch.rand(batch, k, generator=generator) < missing] = -1
    samples = random_groups(batch, groups, generator, "cpu")
    fill_order = torch.randint(num_classes, (len(samples), length), generator=generator)
    least = max(len(labels[group[group >= 0]].unique()) for group in samples)
    count = data.draw(st.integers(least, num_classes))
    arguments = (candidates, labels, samples, fill_order, count, num_classes)
    with backend.use("torch"):
        expected = active_sets.union_active(*arguments)
    for name, flags in build.runnable_variants().items():
        with build.using(flags):
            classes, targets = union_active(*arguments)
        assert torch.equal(classes, expected[0]) and torch.equal(targets, expected[1]), name
    assert classes.shape == (len(samples), count)
    assert torch.equal(
        torch.where(samples < 0, -1, labels[samples]), torch.where(targets < 0, -1, at(classes, targets))
    )


def at(classes, targets):
    return classes.gather(1, targets.clamp_min(0))


def test_too_many_labels_say_the_same_as_plain_torch():
    samples, nothing = torch.tensor([[0, 1], [2, 4]]), torch.zeros(2, 0, dtype=torch.int64)
    arguments = (torch.zeros(5, 2, dtype=torch.int64), torch.tensor([3, 3, 1, 0, 2]), samples, nothing, 1, 9)
    with backend.use("torch"), pytest.raises(ValueError) as expected:
        active_sets.union_active(*arguments)
    with pytest.raises(ValueError) as found:
        union_active(*arguments)
    assert str(found.value) == str(expected.value)


def test_bad_input_of_union_active_is_one_sentence():
    good = dict(
        candidates=torch.tensor([[1, 2], [3, -1]]),
        labels=torch.tensor([0, 5]),
        samples=torch.tensor([[0, 1]]),
        fill_order=torch.tensor([[7]]),
        count=6,
        num_classes=9,
    )
    cases = [
        (dict(labels=torch.tensor([0, 9])), "labels holds a class id"),
        (dict(candidates=torch.tensor([[1, 2], [3, 9]])), "candidates holds a class id"),
        (dict(fill_order=torch.tensor([[-1]])), "fill_order holds a class id"),
        (dict(samples=torch.tensor([[0, 2]])), "samples holds a position that is not in -1..B-1"),
        (dict(samples=torch.tensor([[0, -2]])), "samples holds a position"),
        (dict(samples=torch.tensor([[0], [1]])), r"fill_order is .* shape \[1, 1\] on cpu; it should be .* \[2, L\]"),
        (dict(count=10), "count is 10; it should be from 0 to num_classes, 9"),
        (dict(labels=torch.tensor([0])), r"labels is .* shape \[1\] on cpu; it should be .* shape \[2\]"),
        (dict(labels=torch.tensor([0.0, 1.0])), "labels is torch.float32"),
        (dict(candidates=good["candidates"].T), "candidates is .* strides"),
    ]
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            union_active(**{**good, **change})


@pytest.mark.parametrize("op", [select_map, select_map_torch])
def test_select_map_and_its_twin_equal_the_reference(op, generator):
    for n in (1, 7, 300):
        scores = torch.randint(5, (n,), generator=generator, dtype=torch.uint8)
        labels = torch.randint(n, (min(n, 6),), generator=generator)
        for count in {len(labels.unique()), (n + 1) // 2 + len(labels.unique()) // 2, n}:
            with backend.use("emulator"):
                found = op(scores, labels, count)
            expected = select_map_reference(scores.numpy(), labels.numpy(), count)
            assert [x.tolist() for x in found] == [x.tolist() for x in expected]


def test_opcheck():
    torch.library.opcheck(
        union_active.registered,
        (torch.tensor([[1, 2], [3, -1]]), torch.tensor([0, 5]), torch.tensor([[1, 0]]), torch.tensor([[7]]), 6, 9),
    )
    with backend.use("emulator"):
        torch.library.opcheck(select_map.registered, (torch.arange(9, dtype=torch.uint8), torch.tensor([1, 2]), 4))


@pytest.mark.parametrize("change, words", [
    (dict(scores=torch.zeros(9)), "scores is torch.float32"),
    (dict(scores=torch.zeros(3, 3, dtype=torch.uint8)), r"scores is .* shape \[3, 3\]"),
    (dict(labels=torch.zeros(2)), "labels is torch.float32"),
    (dict(labels=torch.tensor([0, 9])), "labels holds a class id"),
    (dict(labels=torch.tensor([-1, 0])), "labels holds a class id"),
    (dict(count=10), "count is 10"),
    (dict(count=-1), "count is -1"),
    (dict(count=1), "labels holds 2 distinct classes"),
])  # fmt: skip
def test_bad_arguments_of_select_map_are_named(change, words):
    arguments = dict(scores=torch.zeros(9, dtype=torch.uint8), labels=torch.tensor([1, 2]), count=4) | change
    for op in (select_map, select_map_torch):
        with pytest.raises(ValueError, match=words):
            op(**arguments)
