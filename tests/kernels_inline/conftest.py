"""What the tests of the emulator share."""

import pytest
from cuda_runners import PLANTED

from kernels_inline.cuda import emulator


@pytest.fixture(scope="session")
def sound():
    return emulator.load(PLANTED / "sound.cu")


@pytest.fixture(params=emulator.SCHEDULES)
def order(request):
    with emulator.schedule(request.param):
        yield request.param
