"""priority.py: the sample against the reference, and what its chances follow from."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampled import SCALE, N, problem, unit

from annsoftmax_ref import reference as ref
from annsoftmax_ref.beyond.drawn import draw_distinct
from annsoftmax_ref.beyond.priority import draw_priority, priority_active, priority_keep, smallest_uniforms


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_priority_sample_equals_the_reference(data):
    n, places = data.draw(st.integers(0, 40), "items"), data.draw(st.integers(0, 45), "places")
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000), "seed"))
    scores, uniforms = np.exp(3 * rng.standard_normal(n)), 1 - rng.random(n)
    kept, log_weights = priority_keep(torch.tensor(scores).log(), torch.tensor(uniforms), places)
    expected, p = ref.priority_sample(scores, uniforms, places)
    np.testing.assert_array_equal(kept.numpy(), expected)
    np.testing.assert_allclose(log_weights.numpy(), -np.log(p), atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_chances_of_a_priority_sample_follow_from_its_scores(data):
    """1 / p = tau / score for every class that is in by chance: one tau for all, with the reference's scores."""
    n, b = data.draw(st.integers(2, 60), "classes"), data.draw(st.integers(1, 5), "batch")
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10_000), "seed"))
    candidates = torch.randint(-1, n, (b, data.draw(st.integers(0, 12), "k")), generator=generator)
    logits = torch.randn(candidates.shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(n, (b,), generator=generator)
    count = data.draw(st.integers(len(labels.unique()), n), "count")
    pilot = draw_distinct(n, min(n, 10), generator)
    pilot_logits = torch.randn(b, len(pilot), generator=generator, dtype=torch.float64)
    everybody = torch.arange(b)[None]
    draws = draw_priority(everybody, candidates.shape[1], count, n, generator)
    (classes,), (targets,), (log_weights,) = priority_active(
        candidates, logits, labels, everybody, pilot, pilot_logits, *draws, count, n
    )
    assert len(classes) == count and (classes.diff() > 0).all() and torch.equal(classes[targets], labels)
    assert (log_weights >= 0).all() and (log_weights[targets] == 0).all()
    known = set(labels.tolist()) | set(candidates[candidates >= 0].tolist())
    fresh = [math.exp(pilot_logits[:, j].max()) for j, c in enumerate(pilot.tolist()) if c not in known]
    floor = math.log(np.mean(fresh)) if fresh else logits.min().item() if candidates.numel() else 0.0
    scores = torch.tensor(ref.group_scores(candidates.numpy(), logits.numpy(), floor, n))
    tau = log_weights + scores[classes].log()
    by_chance = log_weights > 0
    if by_chance.any() and fresh:
        torch.testing.assert_close(tau[by_chance], tau[by_chance][:1].expand(int(by_chance.sum())))
        certain = ~by_chance
        certain[targets] = False
        assert (scores[classes][certain].log() >= tau[by_chance][0] - 1e-9).all()


def test_scores_may_be_anything():
    """Candidates at random, with random logits: the worst search there is, and still no bias."""
    x, labels, weight = problem(b=2)
    logits = SCALE * x @ unit(weight).T
    generator = torch.Generator().manual_seed(0)
    ratios, both = [], torch.arange(2)[None]
    for _ in range(1500):
        candidates = torch.randint(-1, N, (2, 20), generator=generator)
        guesses = torch.randn(2, 20, generator=generator, dtype=torch.float64)
        pilot = draw_distinct(N, 30, generator)
        draws = draw_priority(both, 20, 90, N, generator)
        (classes,), _, (log_weights,) = priority_active(
            candidates, guesses, labels, both, pilot, torch.zeros(2, 30), *draws, 90, N
        )
        ratios.append((logits[:, classes] + log_weights).exp().sum(dim=1) / logits.exp().sum(dim=1))
    ratios = torch.stack(ratios).mean(dim=1)
    assert abs(ratios.mean() - 1) < 2 * ratios.std() / math.sqrt(len(ratios))


def test_smallest_uniforms_are_distributed_as_sorted_ones(generator):
    """The j-th smallest of 50 uniforms: mean j / 51, variance j (51 - j) / (51^2 * 52)."""
    drawn = torch.stack(
        [
            smallest_uniforms(50, torch.empty(8, dtype=torch.float64).exponential_(generator=generator))
            for _ in range(4000)
        ]
    )
    j = torch.arange(1, 9, dtype=torch.float64)
    variance = j * (51 - j) / (51**2 * 52)
    assert (drawn.diff(dim=1) > 0).all()
    assert ((drawn.mean(dim=0) - j / 51).abs() < 4 * (variance / 4000).sqrt()).all()
    assert (drawn.var(dim=0) / variance - 1).abs().max() < 0.15
    everything = smallest_uniforms(5, torch.tensor([0.1, 1.0, 2.0, 0.5, 700.0], dtype=torch.float64))
    assert (everything > 0).all() and (everything <= 1).all()
