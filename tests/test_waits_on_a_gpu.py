"""What a training step on a GPU makes the host wait for, counted without a GPU (fake_cuda.py)."""

import pytest
import torch
from fake_cuda import backward, fake_cuda

from annsoftmax_ref import (
    AllClasses,
    CosFace,
    NearestClasses,
    RandomClasses,
    RowAdamW,
    RowSGD,
    SoftmaxHead,
    row_buffers,
)
from kernels_inline import build, dispatch

pytestmark = [
    pytest.mark.slow,  # the device guard is compiled against torch's headers
    pytest.mark.skipif(not build.available(), reason=str(build.why_not())),
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
]
HEADS = {
    "full": AllClasses,
    "random": lambda: RandomClasses(0.1),
    "ann, one group": lambda: NearestClasses(0.1, groups=1),
    "ann": lambda: NearestClasses(0.1, groups=4),
    "lists, one group": lambda: NearestClasses(0.1, groups=1, flat=0),
    "lists": lambda: NearestClasses(0.1, groups=4, flat=0),
    "lists, groups of two sizes": lambda: NearestClasses(0.1, groups=5, flat=0),
    "flat of two bits": lambda: NearestClasses(0.1, groups=4, flat=2),
}


def step(head, optimizer):
    x, labels = (
        torch.randn(32, 64, device="cuda", requires_grad=True),
        torch.zeros(32, dtype=torch.int64, device="cuda"),
    )
    backward(head(x, labels))
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("optimizer", [RowSGD, RowAdamW])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", HEADS)
def test_a_step_waits_for_nothing(name, dtype, optimizer, monkeypatch):
    """All of it is sent to the device without waiting, in shapes that do not depend on values: those would be counted.
    (The backward pass asks whether the device has seen the batch, with which a step begins: test_deferred.py.)"""
    with fake_cuda(monkeypatch) as seen:
        head = SoftmaxHead(1000, 64, HEADS[name](), CosFace(), device="cuda", dtype=dtype)
        trained = optimizer(head.parameters(), lr=0.1)
        for _ in range(3):  # the first steps make the index and the optimizer's buffers
            seen.waits.clear()
            step(head, trained)
    assert not seen.waits


def test_the_lists_are_given_room_once_in_a_pass_over_the_rows(monkeypatch):
    with fake_cuda(monkeypatch) as seen:
        head = SoftmaxHead(1000, 64, NearestClasses(0.1, groups=1, flat=0, refresh_steps=5), CosFace(), device="cuda")
        trained = RowSGD(head.parameters(), lr=0.1)
        step(head, trained)
        seen.waits.clear()
        for _ in range(10):
            step(head, trained)
    looks = {place: count for place, count in seen.waits.items() if "lists.py" in place}
    assert sum(looks.values()) == 2 and sum(seen.waits.values()) == 2


@pytest.mark.parametrize("optimizer", [RowSGD, RowAdamW])
def test_buffers_on_the_host_are_read_where_they_lie(optimizer, monkeypatch):
    monkeypatch.setattr(row_buffers, "in_pinned_memory", lambda tensor: tensor)
    monkeypatch.setattr(dispatch, "is_pinned", lambda tensor: not tensor.is_cuda)
    options = {"momentum": 0.9} if optimizer is RowSGD else {}
    with fake_cuda(monkeypatch) as seen:
        head = SoftmaxHead(1000, 64, RandomClasses(0.1), CosFace(), device="cuda", dtype=torch.bfloat16)
        trained = optimizer(head.parameters(), lr=0.1, buffers_on_host=True, **options)
        for _ in range(3):
            seen.waits.clear()
            step(head, trained)
        kept = [trained.state[head.weight][name] for name in trained.buffers]
        assert all(buffer is None or buffer.device.type == "cpu" for buffer in kept)
    assert not seen.waits
