"""annsoftmax::write_codes_ against the torch form in annsoftmax_ref.lists."""

import pytest
import torch

from annsoftmax_ref import backend
from annsoftmax_ref.lists import InvertedLists
from kernels_inline import build
from kernels_inline.lists_ops import write_codes_

pytestmark = pytest.mark.skipif(not build.available(), reason=str(build.why_not()))


def lists(n=300, words=3, nlist=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-(2**62), 2**62, (n, words), generator=generator)
    return InvertedLists(torch.randint(nlist, (n,), generator=generator), codes, nlist)


def arguments(ids=(5, 299, 0), seed=1):
    one = lists()
    fresh = torch.randint(-(2**62), 2**62, (len(ids), 3), generator=torch.Generator().manual_seed(seed))
    return (one.codes, one.slot_codes, torch.zeros(300, dtype=torch.int32), one.assignment, one.place,
            torch.tensor(ids), fresh, 4)  # fmt: skip


@pytest.mark.parametrize("flags", build.VARIANTS.values(), ids=build.VARIANTS)
def test_writes_what_torch_writes(flags):
    codes, slot_codes, written, *_, ids, fresh, clock = call = arguments()
    twin = lists()
    with backend.use("torch"):
        twin.write_codes(ids, fresh)
    with build.using(flags):
        write_codes_(*call)
    assert torch.equal(codes, twin.codes) and torch.equal(slot_codes, twin.slot_codes)
    assert written.nonzero().squeeze(1).tolist() == [0, 5, 299] and written.max() == clock


def test_opcheck():
    torch.library.opcheck(write_codes_, arguments())


def test_ids_outside_are_refused_with_nothing_written():
    call = arguments(ids=(1, 300))
    before = [t.clone() for t in call[:3]]
    with pytest.raises(ValueError, match="ids holds a row that is not in 0..299"):
        write_codes_(*call)
    assert all(torch.equal(a, b) for a, b in zip(before, call, strict=False))
    with pytest.raises(ValueError, match="fresh is"):
        write_codes_(*call[:6], call[6][:1], 0)
