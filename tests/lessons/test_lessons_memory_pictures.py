"""The picture of a warp's load: each lane at its address, sectors and banks counted; the widget follows."""

import re

import pytest
import torch
from kernel_cells import DOUBLE, ROW_SUMS
from moved_controls import QUICK, move

from annsoftmax_ref.lessons import memory_pictures as pictures
from annsoftmax_ref.lessons.kernel_cells import cuda_kernel
from annsoftmax_ref.lessons.kernel_traffic import Request


@pytest.fixture(scope="module")
def versions():
    column = cuda_kernel(ROW_SUMS).accesses[1, 32](torch.zeros(32, 40), torch.zeros(32), 32, 40)
    row = cuda_kernel(DOUBLE).accesses[1, 32](torch.zeros(32), torch.zeros(32), 32)
    return {"column": column, "row": row}


def boxes(picture):
    """The numbers in the filled boxes, in the order in which they stand there."""
    return re.findall(r'fill="#fff"[^>]*>([^<]*)<', picture)


def test_a_column_touches_a_sector_a_lane_and_a_row_four(versions):
    column, row = (pictures.lanes(versions[name][0]) for name in ("column", "row"))
    assert boxes(column) == boxes(row) == [str(lane) for lane in range(32)]
    assert column.count('stroke-width="2"') == 32 and row.count('stroke-width="2"') == 4
    assert "32 lanes load from x, 4 bytes each: 32 sectors = 1,024 bytes moved, 128 used" in column
    assert ">x[1240]<" in column and ">x[24]<" in row
    assert "4 sectors = 128 bytes moved, 128 used" in row


def test_wide_loads_broadcasts_and_small_elements():
    wide = Request(False, "x", 1, 4, 4, {lane: 4 * lane for lane in range(32)}, tuple(range(16)))
    assert boxes(pictures.lanes(wide))[:5] == ["0", "0", "0", "0", "1"]
    assert "16 sectors = 512 bytes moved, 512 used" in pictures.lanes(wide)
    same = Request(False, "x", 1, 8, 1, dict.fromkeys(range(32), 3), (0,))
    assert boxes(pictures.lanes(same)) == ["0–31"] and "1 sector = 32 bytes moved, 8 used" in pictures.title(same)
    apart = Request(False, "x", 1, 4, 1, {0: 2, 5: 2}, (0,))
    assert boxes(pictures.lanes(apart)) == ["2×"]
    octets = Request(True, "x", 1, 1, 1, {lane: lane for lane in range(32)}, (0,))
    assert boxes(pictures.lanes(octets)) == [f"{i}–{i + 3}" for i in range(0, 32, 4)]


@pytest.mark.parametrize(
    "by, passes", [(1, "1 wavefront"), (2, "2 wavefronts"), (32, "32 wavefronts"), (0, "1 wavefront")]
)
def test_bank_conflicts_are_counted_as_the_emulator_does(by, passes):
    request = Request(False, "shared", 1, 4, 1, {lane: lane * by for lane in range(32)})
    assert pictures.lanes(request).count(f": {passes}<") == 1
    assert len(boxes(pictures.lanes(request))) == (32 if by else 1)


def test_pictures_have_the_page_s_colour_and_a_label_and_are_small(versions):
    for request in (versions["column"][0], versions["row"][1]):
        picture = pictures.lanes(request)
        assert picture == pictures.lanes(request)
        assert 'role="img" aria-label="line ' in picture and "currentColor" in picture and "#000" not in picture
        assert len(picture) < 20_000
        assert min(map(float, re.findall(r'font-size="(\d+)"', picture))) >= 11


def test_the_widget_follows_its_controls(versions):
    box = pictures.lane_explorer(versions)
    assert boxes(box.picture.value) == [str(lane) for lane in range(32)]
    seconds = move(box, ("request", 2), ("version", "row"))
    assert min(seconds) < QUICK and "store to out" in box.picture.value
    box.controls["request"].value = 41  # the row has two requests: the last one stays
    assert "store to out" in box.picture.value and box.message.value == ""


def test_versions_without_requests_are_refused():
    with pytest.raises(ValueError, match="versions is empty"):
        pictures.lane_explorer({})
