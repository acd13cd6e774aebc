"""What the lanes of a warp do together, step by step: a sum by shuffles, a ballot; and a tile of codes that is scanned.

Each picture is a function that returns SVG; NAME_explorer is a widget that steps through it.
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
    RED,
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

LANES = 32
CELL = WIDTH / LANES
TALL = 22
DISTANCES = (16, 8, 4, 2, 1)
FAINT = "#8886"


def each_lane(values: Sequence[float]) -> np.ndarray:
    """values [32], one for each lane."""
    values = np.asarray(values)
    if values.shape != (LANES,):
        raise ValueError(f"values has shape {list(values.shape)}; it should be [{LANES}], one for each lane")
    return values


def mask_of(yes: np.ndarray) -> int:
    """The word that a ballot gives: bit i is yes[i]."""
    return sum(1 << i for i in np.flatnonzero(yes).tolist())


def sums_by_shuffle(values: Sequence[int]) -> list[np.ndarray]:
    """The lanes' values [32] before, and after each of the five steps of ``value += __shfl_xor_sync(.., apart)``."""
    steps = [each_lane(values)]
    for apart in DISTANCES:
        steps.append(steps[-1] + steps[-1][np.arange(LANES) ^ apart])
    return steps


def reduction(values: Sequence[int], step: int, lane: int) -> str:
    """SVG of one step (1 to 5), with the two values that ``lane`` adds, and who adds which above the others."""
    steps = sums_by_shuffle(values)
    if not 1 <= step <= len(DISTANCES) or not 0 <= lane < LANES:
        raise ValueError(f"step is {step} and lane is {lane}; they should be 1 to 5 and 0 to 31")
    before, after, apart = steps[step - 1], steps[step], DISTANCES[step - 1]
    partner = lane ^ apart
    said = f"step {step}: each lane adds the value of the lane at distance {apart} (lane xor {apart})"
    body = [bold(0, 16, said), *_lane_numbers(34)]
    body += _row(before, 40, {lane: BLUE, partner: ORANGE})
    for one in range(LANES):
        for source in (one, one ^ apart):
            colour = (BLUE if source == lane else ORANGE) if one == lane else "currentColor"
            wide = 2.5 if one == lane else 0.6
            body.append(line((source + 0.5) * CELL, 40 + TALL, (one + 0.5) * CELL, 110, colour, wide))
    body += _row(after, 110, {lane: GREEN})
    different = len(set(after.tolist()))
    sentence = f"lane {lane}: {before[lane]} + {before[partner]} of lane {partner} = {after[lane]}"
    body.append(text(0, 154, f"{sentence}.  Different values in the warp: {different}"))
    return drawing(162, body, f"{said}; {sentence}")


def ballot(yes: Sequence[bool], lane: int) -> str:
    """SVG of ``mask = __ballot_sync(.., yes)`` and of the place that ``lane`` gets: the number of set bits below it."""
    yes = np.asarray(yes, bool)
    if yes.shape != (LANES,) or not 0 <= lane < LANES:
        raise ValueError(f"yes has shape {list(yes.shape)} and lane is {lane}; they should be [{LANES}] and 0 to 31")
    mask = mask_of(yes)
    place = int(yes[:lane].sum())
    said = f"mask = __ballot_sync(ALL_LANES, yes) = 0x{mask:08x}, in every lane"
    body = [bold(0, 16, said), *_lane_numbers(34)]
    colours = {i: (BLUE if i < lane else GREEN if i == lane else FAINT) for i in range(LANES) if yes[i]}
    body += _row(yes.astype(int), 40, colours)
    body.append(line(lane * CELL, 38, lane * CELL, 66, RED, 3))
    got = f"goes to place {place}" if yes[lane] else "has nothing to write"
    sentence = f"lane {lane}: __popc(mask & ((1u << {lane}) - 1)) = {place} lanes before it said yes; it {got}"
    body.append(text(0, 86, sentence))
    kept = np.flatnonzero(yes)
    body.append(text(0, 110, "written", size=SMALL))
    for where, source in enumerate(kept.tolist()):
        here = yes[lane] and source == lane
        fill = GREEN if here else BLUE if source < lane else "none"
        body.append(box(where * CELL, 116, CELL, TALL, fill=fill, wide=0.5))
        colour = "currentColor" if fill == "none" else "#fff"
        body.append(text((where + 0.5) * CELL, 132, source, size=SMALL, colour=colour, at="middle"))
    return drawing(146, body, f"{said}; {sentence}")


def tile_scan(query: Sequence[int], codes, scanned: int, threshold: int) -> str:
    """SVG of the codes [n, bits] of a tile of which the first ``scanned`` were compared with the query [bits].

    Bits that differ are filled; their number is the distance; a code up to ``threshold`` is kept.
    """
    query, codes = np.asarray(query, int), np.asarray(codes, int)
    if codes.ndim != 2 or codes.shape[1:] != query.shape or codes.shape[1] > LANES:
        raise ValueError(
            f"codes has shape {list(codes.shape)} and query {list(query.shape)}; they should be [n, bits] and [bits], "
            f"with at most {LANES} bits"
        )
    distances = (codes != query).sum(axis=1)
    kept = distances[:scanned] <= threshold
    said = f"{scanned} of {len(codes)} codes scanned, {int(kept.sum())} with a distance of at most {threshold}"
    cell, left = 17, 56
    places = [left + (j + 0.3) * cell for j in range(len(query))]
    body = [bold(0, 16, said), text(0, 41, "query"), grid(left, 28, cell, 18, len(query))]
    body.append(letters(places, 42, "".join(map(str, query))))
    for i, code in enumerate(codes):
        top = 56 + 20 * i
        body += [text(0, top + 14, f"code {i}"), grid(left, top, cell, 18, len(query))]
        differs = (code != query) & (i < scanned)
        body += [box(left + j * cell, top, cell, 18, fill=ORANGE, wide=0.5) for j in np.flatnonzero(differs)]
        for colour, wanted in (("#fff", differs), ("currentColor", ~differs)):
            some = np.flatnonzero(wanted)
            body.append(letters([places[j] for j in some], top + 14, "".join(map(str, code[some])), colour=colour))
        if i < scanned:
            words = f"popcount {distances[i]}" + (", kept" if kept[i] else "")
            colour = GREEN if kept[i] else "currentColor"
            body.append(text(left + (len(query) + 0.5) * cell, top + 14, words, colour=colour))
    return drawing(60 + 20 * len(codes), body, said)


def reduction_explorer(values: Sequence[int]) -> widgets.VBox:
    return explore_svg(
        lambda step, lane: reduction(values, step, lane),
        step=widgets.IntSlider(value=1, min=1, max=len(DISTANCES)),
        lane=widgets.IntSlider(value=0, min=0, max=LANES - 1),
    )


def ballot_explorer(yes: Sequence[bool]) -> widgets.VBox:
    return explore_svg(lambda lane: ballot(yes, lane), lane=widgets.IntSlider(value=0, min=0, max=LANES - 1))


def tile_scan_explorer(query: Sequence[int], codes) -> widgets.VBox:
    return explore_svg(
        lambda scanned, threshold: tile_scan(query, codes, scanned, threshold),
        scanned=widgets.IntSlider(value=len(codes), min=0, max=len(codes)),
        threshold=widgets.IntSlider(value=len(query) // 3, min=0, max=len(query)),
    )


def _lane_numbers(y: float) -> list[str]:
    return [text((i + 0.5) * CELL, y, i, size=SMALL, at="middle") for i in range(LANES)]


def _row(values: np.ndarray, top: float, colours: dict[int, str]) -> list[str]:
    """A box for each lane's value; those in ``colours`` are filled."""
    drawn = [grid(0, top, CELL, TALL, LANES)]
    drawn += [box(i * CELL, top, CELL, TALL, fill=colour, wide=0.5) for i, colour in colours.items()]
    for i, value in enumerate(values.tolist()):
        colour = "#fff" if colours.get(i, FAINT) != FAINT else "currentColor"
        drawn.append(text((i + 0.5) * CELL, top + 16, value, size=SMALL, colour=colour, at="middle"))
    return drawn
