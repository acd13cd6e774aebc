"""LogQClasses: its expectation, what it counts, and that its draws equal the reference's."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_heads import losses_of

from annsoftmax_ref import CrossEntropy, LogQClasses, RowSGD, SoftmaxHead
from annsoftmax_ref.reference.estimators import priority_sample
from annsoftmax_ref.rivals.log_q import draw_by_priority

N, D, B = 60, 8, 6


def batch(seed=0, samples=B):
    generator = torch.Generator().manual_seed(seed)
    x = F.normalize(torch.randn(samples, D, generator=generator, dtype=torch.float64), dim=1)
    return x, torch.randint(N, (samples,), generator=generator)


def make(seed=0, **options):
    return SoftmaxHead(
        N, D, LogQClasses(**{"sample_rate": 0.4} | options), CrossEntropy(5.0), seed=seed, dtype=torch.float64
    )


def seen_by_zipf(head):
    head.selector.seen.copy_(1000 // torch.arange(1, N + 1))
    return head


@pytest.mark.parametrize("power", [0.0, 0.75, 1.0])
def test_the_partition_function_is_right_on_average(power):
    """A sample's sum of e^(logit + log-weight) over 1,000 draws, within five standard errors of the full sum."""
    head = seen_by_zipf(make(power=power, groups=4000, grouping="random"))
    x, labels = batch(samples=4)
    copies = torch.arange(4).repeat(1000)  # each in a group, and so a draw, of its own
    active = head.selector.select(x[copies], labels[copies], head.weight, head.generator)
    assert active.samples.shape == (4000, 1)
    sample = copies[active.samples[:, 0]]
    logits = head.logits(x)[sample].gather(1, active.classes) + active.log_weights
    for k in range(4):
        sums, full = logits[sample == k].exp().sum(dim=1), head.logits(x[k : k + 1]).exp().sum()
        error = sums.std() / len(sums) ** 0.5
        assert 0 < error < 0.02 * full and abs(sums.mean() - full) < 5 * error


def test_each_class_is_in_as_often_as_its_weight_says():
    """The mean of 1 / q over the draws, 0 where a class is out, is 1; frequent classes are in more often."""
    head = seen_by_zipf(make(groups=2000, grouping="random"))
    x, labels = batch(samples=1)
    active = head.selector.select(x.repeat(2000, 1), labels.repeat(2000), head.weight, head.generator)
    assert active.classes.shape == (2000, 24) and (active.classes.diff(dim=1) > 0).all()
    assert (active.classes.gather(1, active.targets) == labels).all()
    assert (active.log_weights.gather(1, active.targets) == 0).all() and (active.log_weights >= 0).all()
    weight, times = torch.zeros(2, N, dtype=torch.float64)
    weight.index_add_(0, active.classes.flatten(), active.log_weights.exp().flatten() / 2000)
    times += torch.bincount(active.classes.flatten(), minlength=N) / 2000
    error = (weight / times * (1 - times) / 2000).sqrt()  # 1 / q does not vary much around 1 / times
    assert ((weight - 1).abs() < 6 * error.clamp_min(1e-9)).all()
    others = torch.arange(N) != labels
    assert times[others][:5].min() > 3 * times[others][-20:].max()


def test_draws_equal_the_reference():
    scores, uniforms = torch.rand(3, N, dtype=torch.float64) + 0.1, 1 - torch.rand(3, N, dtype=torch.float64)
    classes, log_weights = draw_by_priority(scores.log(), uniforms, 20)
    for g in range(3):
        kept, expected = priority_sample(scores[g].numpy(), uniforms[g].numpy(), 20)
        order = np.argsort(kept)
        np.testing.assert_array_equal(classes[g].numpy(), kept[order])
        np.testing.assert_allclose(log_weights[g].numpy(), -np.log(expected[order]), atol=1e-12)


def test_a_place_for_every_class_is_the_full_softmax():
    head, (x, labels) = make(sample_rate=1.0), batch()
    sampled = head.train()(x, labels)
    torch.testing.assert_close(sampled, head.eval()(x, labels), rtol=0, atol=1e-12)


def test_labels_are_counted_in_training_alone_and_each_once_a_sample():
    head, (x, labels) = make(groups=4), batch()  # 6 samples in 4 groups: two have a free place
    head.eval()(x, labels)
    head.train().diagnose(x, labels)
    assert head.selector.seen.sum() == 0
    head(x, labels)
    assert torch.equal(head.selector.seen, torch.bincount(labels, minlength=N))


def test_a_saved_head_goes_on_as_if_never_saved_and_seeds_differ():
    def run(head, seeds):
        return losses_of(head, RowSGD(head.parameters(), lr=0.1), (batch(seed) for seed in seeds))

    first, other = make(), make(seed=1)
    assert run(first, range(5)) != run(other, range(5))
    second = make(seed=9)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert run(first, range(5, 10)) == run(second, range(5, 10))


def test_classes_of_several_processes_are_refused_for_it_counts_the_labels_of_one():
    with pytest.raises(ValueError, match="LogQClasses with a process_group of several processes"):
        LogQClasses().split(SimpleNamespace(ranks=2))
    selector = LogQClasses()
    selector.split(alone := SimpleNamespace(ranks=1))
    assert selector.shards is alone


@pytest.mark.parametrize("power, error", [(-0.1, ValueError), (1.5, ValueError), (True, TypeError), ("1", TypeError)])
def test_a_wrong_power_is_told(power, error):
    with pytest.raises(error, match=f"power is .*{power}.*from 0 to 1"):
        LogQClasses(power=power)
