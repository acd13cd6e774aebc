"""annsoftmax::add_rows_ against plain torch."""

import pytest
import torch

from kernels_inline import build
from kernels_inline.parts_ops import add_rows_

pytestmark = pytest.mark.skipif(not build.available(), reason=str(build.why_not()))


@pytest.mark.parametrize("flags", build.VARIANTS.values(), ids=build.VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("u, a, d", [(1, 1, 1), (50, 50, 33), (300, 40, 128), (7, 0, 5)])
def test_adds_what_torch_adds(flags, dtype, u, a, d, generator):
    total, part = torch.randn(u, d, generator=generator), torch.randn(a, d, generator=generator).to(dtype)
    places = torch.randperm(u, generator=generator)[:a].sort().values
    expected = total.clone()
    expected[places] += part.float()
    with build.using(flags):
        add_rows_(total, places, part)
    assert torch.equal(total, expected)


def test_opcheck():
    torch.library.opcheck(add_rows_, (torch.zeros(5, 3), torch.tensor([1, 4]), torch.ones(2, 3)))


@pytest.mark.parametrize("places", [[1, 1], [3, 2], [0, 5], [-1, 2]])
def test_places_that_repeat_or_lie_outside_are_refused_with_nothing_changed(places):
    total = torch.zeros(5, 3)
    with pytest.raises(ValueError, match=r"places should ascend, without repeats, within 0\.\.4"):
        add_rows_(total, torch.tensor(places), torch.ones(2, 3))
    assert not total.any()
    with pytest.raises(ValueError, match="part"):
        add_rows_(total, torch.tensor([1]), torch.ones(2, 3))
