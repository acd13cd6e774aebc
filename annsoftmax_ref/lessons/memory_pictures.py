"""Pictures of memory: which lane uses which address in one load or store of a warp, as ``kernel.accesses`` tells it.

    requests = gather_1.accesses[1, 32](...)
    svg.show(lanes(requests[0]), alt="...")                        # one request
    lane_explorer({"a thread a row": requests, ...})               # a widget over versions and their requests

Global memory is drawn in sectors of 32 bytes, which is what moves; each little box is an element, with the number of
the lane that uses it. Shared memory is drawn in its 32 banks, a word of 4 bytes a box.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import ipywidgets as widgets

from annsoftmax_ref.lessons.controls import explore_svg
from annsoftmax_ref.lessons.kernel_traffic import SECTOR, Request
from annsoftmax_ref.lessons.svg import BLUE, GREEN, ORANGE, SMALL, WIDTH, bold, box, drawing, grid, text

BANKS, WORD = 32, 4
TOP, CELL_HEIGHT, SECTORS_A_ROW = 30, 20, 4


def lanes(request: Request) -> str:
    """SVG of one request."""
    return _banks(request) if request.array == "shared" else _sectors(request)


def lane_explorer(versions: Mapping[str, Sequence[Request]]) -> widgets.VBox:
    """A menu of versions, and a slider over the requests of a warp; a version with fewer stays at its last one."""
    if not versions or not all(versions.values()):
        raise ValueError("versions is empty, or one of them has no requests; give kernel.accesses[...](...) of each")

    def draw(version: str, request: int) -> str:
        requests = versions[version]
        return lanes(requests[min(request, len(requests)) - 1])

    most = max(map(len, versions.values()))
    return explore_svg(
        draw,
        version=widgets.Dropdown(options=list(versions), layout={"width": "max-content"}),
        request=widgets.IntSlider(value=1, min=1, max=most),
    )


def title(request: Request) -> str:
    """What the request does, and what that moves."""
    used = sum(min(len(found), 1) for found in _users(request).values()) * _unit(request)
    verb = "store to" if request.store else "load from"
    where = f"line {request.line}: " if request.line else ""
    does = f"{where}{len(request.elements)} lanes {verb} {request.array}, {request.each * request.item} bytes each"
    if request.array == "shared":
        return f"{does}: {_number(wavefronts(request), 'wavefront')}"
    moved = len(request.sectors)
    return f"{does}: {_number(moved, 'sector')} = {moved * SECTOR:,} bytes moved, {used:,} used"


def wavefronts(request: Request) -> int:
    """Passes over shared memory, of words of 4 bytes: as many as one bank has different words to give."""
    of_bank = defaultdict(set)
    for word in _users(request):
        of_bank[word % BANKS].add(word)
    return max(map(len, of_bank.values()))


def _sectors(request: Request) -> str:
    """Four sectors a row, in the order of their addresses."""
    unit, users = _unit(request), _users(request)
    cells = SECTOR // unit
    step = WIDTH / SECTORS_A_ROW
    cell, high = (step - 14) / cells, CELL_HEIGHT + 26
    body = [bold(0, 16, title(request))]
    for place, sector in enumerate(request.sectors):
        left, top = place % SECTORS_A_ROW * step + 2, TOP + place // SECTORS_A_ROW * high
        first = sector * SECTOR // request.item
        body.append(text(left, top + 10, f"{request.array}[{first}]", size=SMALL))
        body.append(grid(left, top + 15, cell, CELL_HEIGHT, cells))
        for k in range(cells):
            if lanes_here := users.get(sector * cells + k):
                body += _used(left + k * cell, top + 15, cell, lanes_here, ORANGE if request.store else BLUE)
        body.append(box(left, top + 15, cells * cell, CELL_HEIGHT, wide=2))
    rows = -(-len(request.sectors) // SECTORS_A_ROW)
    return drawing(TOP + rows * high, body, title(request))


def _banks(request: Request) -> str:
    """A column for each bank, and a row for each 128 bytes of which a word is used."""
    users, cell = _users(request), WIDTH / (BANKS + 2)
    rows = {row: place for place, row in enumerate(sorted({word // BANKS for word in users}))}
    body = [bold(0, 16, title(request)), text(0, TOP + 10, "bank", size=SMALL)]
    for bank in range(BANKS):
        body.append(text((bank + 2.5) * cell, TOP + 10, bank, size=SMALL, at="middle"))
    for row, place in rows.items():
        top = TOP + 16 + place * CELL_HEIGHT
        body.append(text(0, top + 14, f"+{row * BANKS * WORD}", size=SMALL))
        body.append(grid(2 * cell, top, cell, CELL_HEIGHT, BANKS))
        for bank in range(BANKS):
            if lanes_here := users.get(row * BANKS + bank):
                body += _used((bank + 2) * cell, top, cell, lanes_here, ORANGE if request.store else GREEN)
    return drawing(TOP + 20 + len(rows) * CELL_HEIGHT, body, title(request))


def _used(x: float, y: float, cell: float, lanes_here: list[int], colour: str) -> list[str]:
    words = text(x + cell / 2, y + 14, _named(lanes_here), size=SMALL, colour="#fff", at="middle")
    return [box(x, y, cell, CELL_HEIGHT, fill=colour, wide=0.5), words]


def _unit(request: Request) -> int:
    """Bytes of a little box: an element's, at least 4."""
    return max(request.item, WORD)


def _users(request: Request) -> dict[int, list[int]]:
    """{number of a box, counted from the array's first: lanes that use it}"""
    found = defaultdict(list)
    for lane, element in request.elements.items():
        begin, size = element * request.item, request.each * request.item
        for place in range(begin // _unit(request), (begin + size - 1) // _unit(request) + 1):
            found[place].append(lane)
    return found


def _named(found: list[int]) -> str:
    if len(found) == 1:
        return str(found[0])
    return f"{found[0]}–{found[-1]}" if found[-1] - found[0] == len(found) - 1 else f"{len(found)}×"


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
