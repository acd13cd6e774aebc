"""Classes split over real processes, under torchrun with gloo."""

from pathlib import Path

import pytest
from processes import torchrun
from split_matrix import CHECKS


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_matrix_holds_over_gloo(ranks):
    done = torchrun(ranks, Path(__file__).with_name("split_matrix.py"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [word for check in CHECKS for word in ("held:", check.__name__)]
