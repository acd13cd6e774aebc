"""Pictures of notebook 13, "Count bits": a word of signs by ballot, and who holds what in a binary tensor core product.

Each is a function that returns SVG; NAME_explorer is a widget that moves from lane to lane.
"""

from __future__ import annotations

from collections.abc import Sequence

import ipywidgets as widgets
import numpy as np

from annsoftmax_ref.lessons.controls import explore_svg
from annsoftmax_ref.lessons.svg import (
    BLUE,
    GREEN,
    ORANGE,
    SMALL,
    WIDTH,
    bold,
    box,
    drawing,
    grid,
    letters,
    line,
    text,
)
from annsoftmax_ref.lessons.warp_pictures import LANES, each_lane, mask_of

ROWS, COLUMNS, WORDS = 16, 8, 8  # of mma.m16n8k256: rows of A, columns of B, words of 32 bits in each
CELL, TALL, DIGIT = 28, 19, 6  # of the boxes of a fragment, and how far two digits are apart
LEFT_A, LEFT_B, TOP_B, TOP_A = 44, 310, 56, 252  # the sums lie below B and right of A
Place = tuple[int, int]


def a_places(lane: int) -> list[Place]:
    """(row, word) of the four words of A that a lane holds, in their order."""
    g, t = divmod(_lane(lane), 4)
    return [(g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)]


def b_places(lane: int) -> list[Place]:
    """(column, word) of the two words of B that a lane holds."""
    g, t = divmod(_lane(lane), 4)
    return [(g, t), (g, t + 4)]


def sum_places(lane: int) -> list[Place]:
    """(row, column) of the four sums that a lane gets."""
    g, t = divmod(_lane(lane), 4)
    return [(g, 2 * t), (g, 2 * t + 1), (g + 8, 2 * t), (g + 8, 2 * t + 1)]


def fragments(lane: int) -> str:
    """SVG of A (left), B (above) and the sums, each box with the number of its lane; those of ``lane`` are filled.

    Thick frames: the rows of A and columns of B that this lane's sums are made from, most of them other lanes'.
    """
    a, b, sums = a_places(lane), b_places(lane), sum_places(lane)
    said = f"lane {lane} holds {len(a)} words of A, {len(b)} words of B and {len(sums)} of the 128 sums"
    body = [bold(0, 16, said)]
    body += _matrix(LEFT_A, TOP_A, "A: 16 codes, 8 words each", "row", ROWS, WORDS, a_places, a, BLUE)
    words_of_b = [(word, column) for column, word in b]
    body += _matrix(
        LEFT_B, TOP_B, "B: 8 queries, 8 words each", "word", WORDS, COLUMNS, _turned(b_places), words_of_b, ORANGE
    )
    body += _matrix(LEFT_B, TOP_A, "sums: bits that both have", "", ROWS, COLUMNS, sum_places, sums, GREEN)
    for row in sorted({row for row, _ in sums}):
        body.append(box(LEFT_A, TOP_A + row * TALL, WORDS * CELL, TALL, line=GREEN, wide=3))
    first = sums[0][1]
    body.append(box(LEFT_B + first * CELL, TOP_B, 2 * CELL, WORDS * TALL, line=GREEN, wide=3))
    for k, sentence in enumerate(_held(lane, a, b, sums)):
        body.append(text(LEFT_B + 9.2 * CELL, 80 + 20 * k, sentence, size=SMALL))
    return drawing(TOP_A + ROWS * TALL + 6, body, said)


def fragments_explorer() -> widgets.VBox:
    return explore_svg(fragments, lane=widgets.IntSlider(value=5, min=0, max=LANES - 1))


def sign_ballot(values: Sequence[float], lane: int) -> str:
    """SVG of 32 lanes that each hold a number: the sign of each is a bit of the word that all of them get."""
    values = each_lane(values)
    yes, cell, lane = values > 0, WIDTH / LANES, _lane(lane)
    mask = mask_of(yes)
    said = f"bits = __ballot_sync(ALL_LANES, x > 0) = 0x{mask:08x}, in every lane"
    middles = (np.arange(LANES) + 0.5) * cell
    body = [bold(0, 16, said), _two_digits(middles, 38, range(LANES))]
    body += [text(middles[i], 58, f"{100 * value:.0f}", size=SMALL, at="middle") for i, value in enumerate(values)]
    body.append(line(middles[lane], 62, middles[lane], 78, GREEN, 2.5))
    body += [box(i * cell, 78, cell, 22, GREEN if i == lane else BLUE, wide=0.5) for i in np.flatnonzero(yes)]
    body.append(grid(0, 78, cell, 22, LANES))
    for digit, some, colour in (("1", yes, "#fff"), ("0", ~yes, "currentColor")):
        body.append(letters(list(middles[some] - DIGIT / 2), 94, digit * int(some.sum()), colour=colour))
    does = f"sets bit {lane}" if yes[lane] else f"leaves bit {lane} at 0"
    body.append(text(0, 120, f"lane {lane} has {values[lane]:.2f} (above: hundredths) and {does}"))
    return drawing(128, body, f"{said}; lane {lane} {does}")


def sign_ballot_explorer(values: Sequence[float]) -> widgets.VBox:
    return explore_svg(lambda lane: sign_ballot(values, lane), lane=widgets.IntSlider(value=0, min=0, max=LANES - 1))


def _lane(lane: int) -> int:
    if not 0 <= lane < LANES:
        raise ValueError(f"lane is {lane}; it should be from 0 to {LANES - 1}")
    return lane


def _turned(places):
    """The same places with the word first, as B is drawn."""
    return lambda lane: [(word, column) for column, word in places(lane)]


def _matrix(left, top, title, side, rows, columns, places, own, colour) -> list[str]:
    """A grid of boxes, each with the number of the lane that holds it; the boxes ``own`` are filled.

    side: what a row is called; "": rows have no numbers.
    """
    holder = {place: lane for lane in range(LANES) for place in places(lane)}
    middles = left + (np.arange(columns) + 0.5) * CELL
    body = [bold(left, top - 20, title, size=SMALL)]
    body.append(letters(list(middles - DIGIT / 2), top - 5, "".join(map(str, range(columns)))))
    body.append(grid(left, top, CELL, rows * TALL, columns))
    rules = "".join(f"M{left} {top + r * TALL}h{columns * CELL}" for r in range(1, rows))
    body.append(f'<path d="{rules}" stroke="currentColor" stroke-width="0.5"/>')
    for r in range(rows):
        y, mine = top + r * TALL, [c for c in range(columns) if (r, c) in own]
        others = [c for c in range(columns) if c not in mine]
        if side:
            body.append(text(left - 6, y + 14, f"{side} {r}" if r == 0 else r, size=SMALL, at="end"))
        body += [box(left + c * CELL, y, CELL, TALL, fill=colour, wide=0.5) for c in mine]
        for some, shade in ((others, "currentColor"), (mine, "#fff")):
            if some:
                body.append(_two_digits(middles[some], y + 14, [holder[r, c] for c in some], shade))
    return body


def _two_digits(middles: np.ndarray, y: float, numbers: Sequence[int], colour: str = "currentColor") -> str:
    """A number of two digits around each place, all in one element."""
    places = [round(x + shift) for x in middles for shift in (-DIGIT, 0)]
    return letters(places, y, "".join(f"{number:02d}" for number in numbers), colour=colour)


def _held(lane: int, a: list[Place], b: list[Place], sums: list[Place]) -> list[str]:
    """What a lane's registers are, in words."""
    lines = [f"a[{i}] = word {word} of row {row}" for i, (row, word) in enumerate(a)]
    lines += [f"b[{i}] = word {word} of query {column}" for i, (column, word) in enumerate(b)]
    return lines + [f"sums[{i}] = row {row}, query {column}" for i, (row, column) in enumerate(sums)]
