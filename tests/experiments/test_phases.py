"""phases.py: the parts of a head's time, which are together the whole of it."""

import pytest
import torch

from annsoftmax_ref.experiments.phases import STAGES, Phases
from annsoftmax_ref.factory import make_head


@pytest.mark.parametrize("name", ["full", "random_dense", "forest", "ann"])
def test_the_stages_add_up_to_the_step_and_leave_the_head_as_it_was(name):
    x, labels = torch.randn(8, 16), torch.arange(8)
    heads = [make_head(name, 100, 16, rate=0.3) for _ in range(2)]
    phases = Phases(heads[0])
    losses = [[head(x, labels).item() for _ in range(3)] for head in heads]
    assert losses[0] == losses[1]
    found = phases.of_steps(1000.0)
    # What is built in the first step is spread over all of them, and comes on top of the median step.
    spread = found["prepare"] - sorted(phases.ms["prepare"] or [0.0])[len(phases.ms["prepare"]) // 2]
    assert tuple(found) == STAGES and sum(found.values()) == pytest.approx(1000.0 + spread)
    assert (found["select"] > 0) == (found["prepare"] > 0) == (name != "full") and found["forward"] > 0
