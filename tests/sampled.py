"""What the tests of the options share: a batch with its classes, and a selector bound to them."""

import torch

from annsoftmax_ref import NearestClasses

N, D, SCALE = 300, 16, 10.0
OPTIONS = {"tail": {"tail": 0.5}, "priority": {"priority": True}}


def unit(rows):
    return torch.nn.functional.normalize(rows, dim=1)


def problem(n=N, d=D, b=8, clustered=False, seed=0):
    """x [b, d] unit rows around their own classes, labels [b], weight [n, d]; float64."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, d, generator=generator, dtype=torch.float64)
    if clustered:  # ten classes around each centre
        centres = torch.randn(-(-n // 10), d, generator=generator, dtype=torch.float64)
        weight = 0.35 * weight + centres.repeat_interleave(10, dim=0)[:n]
    labels = torch.randint(n, (b,), generator=generator)
    x = unit(weight[labels]) + 0.25 * torch.randn(b, d, generator=generator, dtype=torch.float64)
    return unit(x), labels, weight


def bound(weight, rate=0.2, scale=SCALE, seed=3, **options):
    """A selector bound to weight [n, d] and prepared, and its generator."""
    options = {"groups": 2, "nlist": 8, "candidates": 8} | options
    selector = NearestClasses(rate, **options)
    selector.bind(*weight.shape, scale)
    generator = torch.Generator().manual_seed(seed)
    selector.prepare(weight, generator)
    return selector.double(), generator
