"""What is printed of counts and requests."""

from annsoftmax_ref.lessons.kernel_traffic import Request, Traffic
from kernels_inline.cuda import emulator


def test_traffic_has_the_emulator_s_counts_and_says_what_they_mean():
    values = dict(zip(emulator.COUNTS, (1024, 32, 4096, 128, 33, 1028, 64, 64, 256, 256, 4, 6), strict=True))
    traffic = Traffic(**values)
    assert traffic.sectors_a_request == 1028 / 33 and traffic.used == 4224 / (32 * 1028)
    assert repr(traffic) == (
        "global loads       1,024,       4,096 bytes\n"
        "global stores         32,         128 bytes\n"
        "requests              33,       1,028 sectors of 32 bytes: 31.2 a request, 13% of their bytes asked for\n"
        "shared memory        128 loads and stores, in 4 requests of 1.5 wavefronts each"
    )


def test_nothing_moved_divides_by_nothing():
    assert Traffic(*[0] * 12).sectors_a_request == 0


def test_requests_are_one_line():
    request = Request(False, "x", 5, 4, 4, {0: 8, 1: 12}, (1,))
    assert repr(request) == "line 5: 2 lanes load x[8] to [15], 16 bytes a lane, 1 sectors"
    assert repr(Request(True, "shared", 0, 4, 1, {0: 8})) == "1 lanes store shared[8] to [8], 4 bytes a lane"
