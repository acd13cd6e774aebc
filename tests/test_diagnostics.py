"""diagnostics.py: each number counted by hand."""

import copy
import math

import numpy as np
import pytest
import torch
from small_heads import assert_same_state, batch, made

from annsoftmax_ref import AllClasses, NearestClasses
from annsoftmax_ref import reference as ref


def test_diagnostics_by_hand():
    head = made(NearestClasses(0.3, groups=2, far=False))
    x, labels = batch()
    head(x, labels)
    state = copy.deepcopy(head.state_dict())
    found = head.diagnose(x, labels, k=5)
    assert_same_state(head.state_dict(), state)
    unit = torch.nn.functional.normalize(x.detach(), dim=1)
    active = head.selector.select(unit, labels, head.weight, head.generator)
    cosine = unit @ head.prototypes().T
    recalled, masses = [], []
    for group in active:
        inside = set(group.classes.tolist())
        for sample in group.samples.tolist():
            others = [c for c in range(53) if c != labels[sample]]
            nearest = sorted(others, key=lambda c: -cosine[sample, c].item())[:5]
            recalled.append(sum(c in inside for c in nearest) / 5)
            weight = {c: math.exp(12 * cosine[sample, c].item()) for c in others}
            masses.append(sum(w for c, w in weight.items() if c in inside) / sum(weight.values()))
    assert found["recall"] == pytest.approx(np.mean(recalled))
    assert found["captured_mass"] == pytest.approx(np.mean(masses))
    assert found["active_share"] == pytest.approx(np.mean([len(g.classes) for g in active for _ in g.samples]) / 53)
    _, dx, _ = ref.grouped_loss(
        unit.numpy(),
        head.weight.detach().numpy(),
        labels.numpy(),
        [g.samples.numpy() for g in active],
        [g.classes.numpy() for g in active],
        ref.make_objective("cross_entropy", 12.0),
    )
    _, full, _ = ref.full_loss(
        unit.numpy(), head.weight.detach().numpy(), labels.numpy(), ref.make_objective("cross_entropy", 12.0)
    )
    assert found["gradient_error"] == pytest.approx(np.linalg.norm(dx - full) / np.linalg.norm(full), rel=1e-6)
    assert found["stale_bits"] == 0.0
    assert made(AllClasses()).diagnose(x, labels)["captured_mass"] == pytest.approx(1.0)
