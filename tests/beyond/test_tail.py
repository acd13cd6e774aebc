"""tail.py: the searched classes and the sample of the others, against the reference."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from annsoftmax_ref import reference as ref
from annsoftmax_ref.active_sets import draw_fill
from annsoftmax_ref.beyond.tail import tail_active


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_tail_equals_the_reference(data):
    n, b = data.draw(st.integers(2, 40), "classes"), data.draw(st.integers(1, 5), "batch")
    seed = data.draw(st.integers(0, 10_000), "seed")
    generator = torch.Generator().manual_seed(seed)
    candidates = torch.randint(-1, n, (b, data.draw(st.integers(0, 8), "k")), generator=generator)
    labels = torch.randint(n, (b,), generator=generator)
    count = data.draw(st.integers(len(labels.unique()), n), "count")
    tail = data.draw(st.sampled_from([0.01, 0.3, 0.5, 0.99]), "tail")
    everybody = torch.arange(b)[None]
    fill = draw_fill(n, count, generator.manual_seed(seed))
    (classes,), (targets,), (log_weights,) = tail_active(candidates, labels, everybody, fill, count, tail, n)
    # S is the union, cut to what the tail leaves.
    positives, wanted = len(labels.unique()), count - max(1, math.floor(tail * count + 0.5))
    union = np.unique(np.concatenate([labels, candidates[candidates >= 0]]))
    size = min(len(union), max(wanted, positives))
    searched, _ = ref.union_active(candidates.numpy(), labels.numpy(), np.arange(0), size, n)
    expected, expected_weights = ref.uniform_tail(searched, fill[0].numpy(), count, n)
    np.testing.assert_array_equal(classes.numpy(), expected)
    np.testing.assert_allclose(log_weights.numpy(), expected_weights, atol=1e-12)
    assert torch.equal(classes[targets], labels)
