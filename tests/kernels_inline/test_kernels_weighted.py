"""weighted.cpp: the active sets of all groups with log-weights, against the plain torch of ``beyond``."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from annsoftmax_ref import backend
from annsoftmax_ref.active_sets import draw_fill
from annsoftmax_ref.beyond import priority, tail
from annsoftmax_ref.grouping import random_groups
from kernels_inline import build, weighted_ops

pytestmark = pytest.mark.skipif(not build.available(), reason=str(build.why_not()))


def problem(n, batch, k, num_groups, seed=0):
    """candidates [B, k], labels [B], samples [G, b] with -1 where the last groups are smaller, and a generator."""
    generator = torch.Generator().manual_seed(seed)
    candidates = torch.randint(-1, n, (batch, k), generator=generator)
    labels = torch.randint(n, (batch,), generator=generator)
    return candidates, labels, random_groups(batch, num_groups, generator), generator


def most_labels(labels, samples):
    return max(len(labels[group[group >= 0]].unique()) for group in samples)


def both(function, *arguments):
    """By the kernel, and by torch."""
    with backend.use("torch"):
        theirs = function(*arguments)
    assert backend.current() == "auto"
    return function(*arguments), theirs


def drawn(data):
    n, batch = data.draw(st.integers(2, 200), "classes"), data.draw(st.integers(1, 9), "batch")
    k, groups = data.draw(st.integers(0, 12), "k"), data.draw(st.integers(1, 4), "groups")
    candidates, labels, samples, generator = problem(n, batch, k, groups, data.draw(st.integers(0, 10_000), "seed"))
    return n, candidates, labels, samples, data.draw(st.integers(most_labels(labels, samples), n), "count"), generator


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_tail_equals_torch(data):
    n, candidates, labels, samples, count, generator = drawn(data)
    fill = draw_fill(n, count, generator, len(samples))
    share = data.draw(st.sampled_from([0.01, 0.3, 0.5, 0.99]), "share")
    ours, theirs = both(tail.tail_active, candidates, labels, samples, fill, count, share, n)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_priority_equals_torch(data):
    n, candidates, labels, samples, count, generator = drawn(data)
    logits = 3 * torch.randn(candidates.shape, generator=generator)
    pilot = torch.randperm(n, generator=generator)[:10]
    pilot_logits = torch.randn(len(labels), len(pilot), generator=generator)
    draws = priority.draw_priority(samples, candidates.shape[1], count, n, generator)
    ours, theirs = both(
        priority.priority_active, candidates, logits, labels, samples, pilot, pilot_logits, *draws, count, n
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def arguments_of(name, n=5000, batch=64, k=60, num_groups=3, count=700):
    """Of the op of that name, enough work for two threads."""
    candidates, labels, samples, generator = problem(n, batch, k, num_groups)
    if name == "tail_active":
        fill = draw_fill(n, count, generator, len(samples))
        return [candidates, labels, samples, fill, count - 70, count, n]
    draws, fill = priority.draw_priority(samples, k, count, n, generator)
    logits, pilot = torch.randn(batch, k, generator=generator), torch.randperm(n, generator=generator)[:20]
    pilot_logits = torch.randn(batch, 20, generator=generator)
    return [candidates, logits, labels, samples, fill, pilot, pilot_logits, draws, count, n]


@pytest.mark.parametrize("name", ["tail_active", "priority_active"])
def test_passes_opcheck_and_does_not_depend_on_threads(name):
    op, arguments = getattr(weighted_ops, name), arguments_of(name)
    torch.library.opcheck(op.registered, tuple(arguments))
    once, threads = op(*arguments), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert all(torch.equal(a, b) for a, b in zip(once, op(*arguments), strict=True))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["tail_active", "priority_active"])
@pytest.mark.parametrize(
    "place, wrong, sentence",
    [
        ("candidates", 5000, "candidates holds a class id"),
        ("labels", -1, "labels holds a class id"),
        ("samples", 64, "samples holds a position"),
        ("fill_order", 5000, "fill_order holds a class id"),
    ],
)
def test_ids_out_of_range_are_refused(name, place, wrong, sentence):
    op, arguments = getattr(weighted_ops, name), arguments_of(name, k=2, count=700)
    names = [argument.name for argument in op.registered._opoverload._schema.arguments]
    arguments[names.index(place)].view(-1)[0] = wrong
    with pytest.raises(ValueError, match=sentence):
        op(*arguments)


@pytest.mark.parametrize("name", ["tail_active", "priority_active"])
def test_more_labels_than_classes_are_refused(name):
    op, arguments = getattr(weighted_ops, name), arguments_of(name, count=10)
    with pytest.raises(ValueError, match=r"labels holds \d+ distinct classes, more than the 10 active classes"):
        op(*arguments)


def test_what_is_drawn_too_short_is_filled_with_the_lowest_ids():
    candidates, labels, samples, generator = problem(50, 4, 3, 1)
    draws, _ = priority.draw_priority(samples, 3, 30, 50, generator)
    fill, pilot = torch.tensor([[7, 7, 3]]), torch.tensor([1, 2])
    arguments = [torch.randn(4, 3), labels, samples, pilot, torch.zeros(4, 2), draws, fill, 30, 50]
    ours, theirs = both(priority.priority_active, candidates, *arguments)
    assert torch.equal(ours[0], theirs[0])
