"""flat.py: active sets from the codes of all classes, against the reference, and as an option of NearestClasses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from annsoftmax_ref import NearestClasses, RowSGD, SoftmaxHead
from annsoftmax_ref import reference as ref
from annsoftmax_ref.beyond.flat import STRIDE, flat_active
from kernels_inline.bits import pack_bits


def problem(n=500, d=40, batch=24, seed=0):
    """Rows in clusters, samples near a row each."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(n // 10, d, generator=generator)
    weight = F.normalize(centres[torch.arange(n) % len(centres)] + 0.7 * torch.randn(n, d, generator=generator), dim=1)
    labels = torch.randint(n, (batch,), generator=generator)
    x = F.normalize(weight[labels] + 0.1 * torch.randn(batch, d, generator=generator), dim=1)
    return x, labels, weight, generator


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("count", [24, 60, 500])
def test_sets_equal_the_reference(planes, count):
    x, labels, weight, _ = problem()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(2))
    groups = torch.cat([order, order.new_full((1,), -1)]).view(5, 5)  # the last has a sample less
    codes = pack_bits(weight > 0)
    active = flat_active(x, groups, labels, codes, count, planes, torch.Generator().manual_seed(1))
    first = int(torch.randint(STRIDE, (), generator=torch.Generator().manual_seed(1)))
    bits = ref.query_planes(x.numpy(), planes)
    thresholds = ref.flat_thresholds(bits, codes.numpy(), 40, max(1, count // 5), STRIDE, first)
    members = [group[group >= 0] for group in groups]
    maps = ref.flat_map(bits, thresholds, codes.numpy(), [g.numpy() for g in members], 40, planes - 1)
    for group, found, scores in zip(members, active, maps, strict=True):
        classes, targets = ref.select_map(scores, labels[group].numpy(), count)
        assert torch.equal(found.samples, group)
        np.testing.assert_array_equal(found.classes.numpy(), classes)
        np.testing.assert_array_equal(found.targets.numpy(), targets)


def test_two_planes_find_more_of_the_nearest_classes_than_one_and_both_more_than_chance():
    x, labels, weight, _ = problem(n=2000, d=64, batch=32)
    nearest = (x @ weight.T).topk(10, dim=1).indices
    groups, codes = torch.arange(32).unsqueeze(0), pack_bits(weight > 0)
    recall = []
    for planes in (1, 2):
        (active,) = flat_active(x, groups, labels, codes, 200, planes, torch.Generator().manual_seed(0))
        recall.append(torch.isin(nearest, active.classes).double().mean().item())
    assert 0.4 < recall[0] < recall[1]


@pytest.mark.parametrize("flat", [1, 2])
def test_a_head_learns_with_it_and_its_codes_follow(flat):
    x, labels, _, generator = problem()
    head = SoftmaxHead(500, 40, NearestClasses(0.1, groups=2, flat=flat))
    optimizer = RowSGD(head.parameters(), lr=0.5, momentum=0.9)
    losses = []
    for _ in range(30):
        loss = head(x, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    found = head.diagnose(x, labels)
    assert found["stale_bits"] < 0.02 and found["captured_mass"] > 1.5 * found["active_share"]


@pytest.mark.parametrize(
    "options", [{"flat": 3}, {"flat": True}, {"flat": 1, "centre": True}, {"flat": 2, "tail": 0.1}]
)
def test_what_does_not_go_together_is_refused(options):
    with pytest.raises(ValueError, match="flat is"):
        NearestClasses(**options)
