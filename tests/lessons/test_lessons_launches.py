"""The package's own launches, counted: a whole step moves what captured.whole_step says of it."""

import pytest
import torch

from annsoftmax_ref import CosFace, RandomClasses, RowSGD, SoftmaxHead
from annsoftmax_ref.lessons.launches import counted_launches, counted_versions

N, D, A, B = 1600, 256, 16, 8
ROWS = ("row_sgd_catch_up", "gather_normalise", "normalise_backward", "row_sgd", "row_sgd_gather")


def second_step(whole, dtype=torch.float32, half=True):
    """The launches of a head's second step, in which nearly all rows lag, and the head."""
    head = SoftmaxHead(N, D, RandomClasses(A / N), CosFace(16.0, 0.1), dtype=dtype, seed=1)
    optimizer = RowSGD(head.parameters(), lr=0.1, momentum=0.9)
    step, generator = head.captured_step(optimizer), torch.Generator().manual_seed(1)
    with counted_launches() as launches, torch.autocast("cpu", torch.bfloat16, enabled=half):
        for _ in range(2):
            launches.clear()
            x, labels = torch.randn(B, D, generator=generator), torch.randint(N, (B,), generator=generator)
            x.requires_grad_()
            if whole:
                step(x, labels).backward()
            else:
                head(x, labels).backward()
                optimizer.step()
                optimizer.zero_grad()
    return launches, head


def a_number(launches, measure):
    """Bytes a number of the active rows, in launches that took all of them (the sweep takes a few)."""
    large = [launch for launch in launches if launch.launcher in ROWS and launch.once > 4 * A * D]
    return sum(getattr(launch, measure) for launch in large) / (A * D)


@pytest.mark.parametrize("half, before, after", [(True, 52, 28), (False, 56, 32)])
def test_a_whole_step_moves_what_is_said_of_it(half, before, after):
    separate, one = second_step(False, half=half)
    whole, other = second_step(True, half=half)
    assert before <= a_number(separate, "once") < before + 2
    assert after <= a_number(whole, "once") < after + 2
    assert a_number(whole, "moved") >= a_number(whole, "once")
    torch.testing.assert_close(one.weight, other.weight, rtol=0, atol=1e-3 if half else 1e-6)


@pytest.mark.parametrize("name", ["row_sgd_units", "row_sgd_gather"])
def test_versions_are_right_and_the_later_ones_move_less(name):
    found = counted_versions(name, N=40, d=128, A=16)
    assert [version.name[-2:] for version in found] == ["_1", "_2", "_3"]
    assert all(version.right for version in found)
    moved = [version.launch.moved for version in found]
    assert moved[0] > 3 * moved[1] >= 3 * moved[2]
    assert len({version.launch.once for version in found}) == 1


def test_a_kernel_that_is_wrong_is_told(monkeypatch):
    from kernels_inline import registry

    kernel = registry.get("row_sgd_gather")
    monkeypatch.setattr(type(kernel), "expected_outputs", lambda self, a: [torch.zeros_like(a[-2]), torch.zeros(16)])
    assert not any(version.right for version in counted_versions("row_sgd_gather", N=40, d=128, A=16))
