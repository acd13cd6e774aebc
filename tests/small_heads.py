"""What the tests of the heads' options share: small heads, and what the float64 reference makes of their next step."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from annsoftmax_ref import AllClasses, NearestClasses, RandomClasses, SoftmaxHead, make_objective
from annsoftmax_ref import reference as ref
from annsoftmax_ref.objectives import OBJECTIVES

N, D, B = 53, 10, 9
MARGINS = {"cosface": 0.2, "arcface": 0.3, "arcface_insightface": 0.3, "combined": (1.2, 0.2, 0.1)}
SELECTORS = {
    "all": AllClasses,
    "random": lambda: RandomClasses(0.4),
    "one group": lambda: NearestClasses(0.4, groups=1, far=False),
    "groups": lambda: NearestClasses(0.4, groups=3, far=False),
}


def made(selector, objective="cross_entropy", **options):
    if isinstance(objective, str):
        objective = make_objective(objective, 12.0, MARGINS.get(objective))
    return SoftmaxHead(N, D, selector, objective, dtype=torch.float64, **options)


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(B, D, generator=generator, dtype=torch.float64, requires_grad=True)
    return x, torch.randint(N, (B,), generator=generator)


def random_bias(head):
    with torch.no_grad():
        head.bias.normal_(generator=torch.Generator().manual_seed(3))
    return head


def active_sets(head, x, labels):
    """The active sets that the head's next call will use, and the generator as it will be then."""
    copied = copy.deepcopy(head)
    copied.selector.prepare(copied.weight, copied.generator)
    return copied.selector.select(F.normalize(x.detach(), dim=1), labels, copied.weight, copied.generator), copied


def expected(head, x, labels, weights=None):
    """Loss, dx, dweight and dbias by the float64 reference, group by group, over the head's next active sets."""
    active, copied = active_sets(head, x, labels)
    x, w = x.detach().numpy(), head.weight.detach().numpy()
    bias = None if head.bias is None else head.bias.detach().numpy()
    loss, dx, dw, dbias = 0.0, np.zeros_like(x), np.zeros_like(w), np.zeros(N)
    name = next(name for name, kind in OBJECTIVES.items() if type(head.objective) is kind)
    for group in active:
        samples, classes, targets = group.samples.numpy(), group.classes.numpy(), group.targets.numpy()
        part = np.ones(B) / B if weights is None else weights / weights.sum()
        options = {}
        if name in ("dsoftmax_b", "dsoftmax_k"):
            total = len(samples) if name == "dsoftmax_b" else len(classes)
            options = {"chosen": head.objective.draw(total, copied.generator).numpy()}
        if bias is None:
            margin = None if name == "cross_entropy" else MARGINS.get(name, head.objective.margin)
            objective = ref.make_objective(name, 12.0, margin, **options)
        else:
            smoothed = partial(ref.smoothed_cross_entropy, scale=12.0, bias=bias[classes])
            z = ref.cosine_logits(x[samples], w[classes])
            for i, row in enumerate(samples):
                dbias[classes] += smoothed(z[i : i + 1], targets[i : i + 1])[2] * part[row]
            objective = lambda z, target, f=smoothed: f(z, target)[:2]  # noqa: E731
        if weights is not None:
            objective = ref.weighted(objective, weights[samples])
        own, dx_group, dw_rows = ref.active_loss(x[samples], w, targets, classes, objective)
        loss += own * part[samples].sum()
        dx[samples] = dx_group * part[samples].sum()
        dw[classes] += dw_rows * part[samples].sum()
    return loss, dx, dw, dbias


def check(head, x, labels, weights=None):
    loss, dx, dw, dbias = expected(head, x, labels, weights)
    got = head(x, labels)
    got.backward()
    assert got.item() == pytest.approx(loss, rel=1e-10, abs=1e-10)
    np.testing.assert_allclose(x.grad.numpy(), dx, rtol=1e-10, atol=1e-10)
    for parameter, slope in ((head.weight, dw), (head.bias, dbias)):
        if parameter is not None:
            assert parameter.grad.is_sparse is not isinstance(head.selector, AllClasses)
            np.testing.assert_allclose(parameter.grad.to_dense().numpy(), slope, rtol=1e-10, atol=1e-10)


def assert_same_state(a, b):
    """That two state_dicts are equal, bit for bit."""
    assert a.keys() == b.keys() and [name for name in a if not torch.equal(a[name], b[name])] == []


def losses_of(head, optimizer, batches):
    """The loss of each step over batches (embeddings, labels)."""
    losses = []
    for x, labels in batches:
        loss = head(x, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses
