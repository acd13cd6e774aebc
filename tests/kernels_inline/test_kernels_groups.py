"""groups.cpp: the order of similar samples, against plain torch."""

import pytest
import torch

from annsoftmax_ref import backend
from annsoftmax_ref.grouping import ITERATIONS, _similar_order, similar_groups
from kernels_inline import build
from kernels_inline.groups_ops import similar_order

pytestmark = pytest.mark.skipif(not build.available(), reason=str(build.why_not()))


def samples(batch, dim, generator):
    return torch.nn.functional.normalize(torch.randn(batch, dim, generator=generator), dim=1)


@pytest.mark.parametrize("batch, dim, levels", [(256, 128, 3), (96, 64, 4), (7, 5, 2), (33, 17, 5), (2, 3, 1)])
def test_order_equals_torch(batch, dim, levels, generator):
    """To rounding: a place may differ only between samples that lie next to each other along a direction."""
    for _ in range(20):
        x = samples(batch, dim, generator)
        ours, theirs = similar_order(x, 2**levels, ITERATIONS), _similar_order(x, levels)
        assert torch.equal(ours.sort().values, torch.arange(batch))
        assert (ours != theirs).float().mean() <= 2 / batch


def test_groups_are_the_same_by_the_kernel_and_by_torch(generator):
    x = samples(256, 128, generator)
    with backend.use("torch"):
        theirs = similar_groups(x, 8)
    assert torch.equal(similar_groups(x, 8), theirs)


def test_identical_samples_keep_their_order():
    assert torch.equal(similar_order(torch.full((9, 4), 0.5), 4, 3), torch.arange(9))


def test_passes_opcheck_and_refuses_what_is_no_power_of_two(generator):
    x = samples(20, 6, generator)
    torch.library.opcheck(similar_order.registered, (x, 4, 3))
    with pytest.raises(ValueError, match="parts is 6; it should be a power of two"):
        similar_order(x, 6, 3)
