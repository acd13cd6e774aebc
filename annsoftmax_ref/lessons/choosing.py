"""Notebook 14: pictures of a scan lane by lane, of a cut through bytes, of the online softmax, and of counts as bars;
and functions of the package's kernels that its cells use and do not show.

Each picture is a function that returns SVG; NAME_explorer is a widget that moves it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import ipywidgets as widgets
import numpy as np

from annsoftmax_ref import reference as ref
from annsoftmax_ref.lessons.controls import explore_svg
from annsoftmax_ref.lessons.kernel_launches import Helpers
from annsoftmax_ref.lessons.svg import BLUE, GREEN, ORANGE, SMALL, WIDTH, bold, box, drawing, grid, line, text
from kernels_inline.cuda import sources

LANES = 32
DISTANCES = (1, 2, 4, 8, 16)
LEFT, CELL, TALL = 56, (WIDTH - 56) / LANES, 22  # of the boxes: where they begin, and how large each is
HIGHEST = 90  # pixels, of a bar


# ---- What the package's kernels have and the notebook does not show --------------------------------------------------


def of_package(name: str, file: str, *words: str) -> Helpers:
    """Helpers for kernel cells, out of kernels_inline/cuda/FILE: for each of the words the functions and structs, from
    one empty line to the next outside of braces, in which they stand, in the file or in a header that it includes.
    Raises ValueError unless that is one place."""
    text = re.sub(r"^#line .*\n", "", sources.text_of(sources.FOLDER / file), flags=re.MULTILINE)
    pieces, depth = [""], 0
    for one in text.splitlines():
        code = one.partition("//")[0]
        depth += code.count("{") - code.count("}")
        pieces[-1] += f"{one}\n"
        if depth == 0 and not one.strip():
            pieces.append("")
    found = []
    for word in words:
        places = [piece for piece in pieces if word in re.sub(r"//[^\n]*", "", piece)]
        if len(places) != 1:
            raise ValueError(f"{word!r} stands in {len(places)} places of {file}; it should stand in one")
        found += places
    return Helpers(name, "\n" + "".join(found))


# ---- A scan, lane by lane --------------------------------------------------------------------------------------------


def scan_steps(values: Sequence[int]) -> list[np.ndarray]:
    """The lanes' values [32] before, and after each step of ``warp_scan``: lanes from ``apart`` on add the value of the
    lane ``apart`` before them."""
    values = np.asarray(values)
    if values.shape != (LANES,):
        raise ValueError(f"values has shape {list(values.shape)}; it should be [{LANES}], one for each lane")
    steps = [values]
    for apart in DISTANCES:
        before = np.concatenate([np.zeros(apart, values.dtype), steps[-1][:-apart]])
        steps.append(steps[-1] + before)
    return steps


def scan(values: Sequence[int], step: int, lane: int) -> str:
    """SVG of one step (1 to 5): who adds whose value, that of ``lane`` above the others."""
    steps = scan_steps(values)
    if not 1 <= step <= len(DISTANCES) or not 0 <= lane < LANES:
        raise ValueError(f"step is {step} and lane is {lane}; they should be 1 to 5 and 0 to 31")
    before, after, apart = steps[step - 1], steps[step], DISTANCES[step - 1]
    source, first = lane - apart, max(0, lane - 2 * apart + 1)
    said = f"step {step} of 5: each lane adds the value of the lane {apart} before it, if there is one"
    holds = f"{after[lane]}, the sum of lanes {first} to {lane}"
    sentence = f"lane {lane}: {before[lane]} + {before[source]} of lane {source} = {holds}"
    if source < 0:
        sentence = f"lane {lane}: no lane is {apart} before it; it keeps {holds}"
    body = [bold(0, 16, said), text(0, 38, "lane"), _numbers(dict(enumerate(range(LANES))), 38, "currentColor")]
    body += _labelled("before", before, 44, {source: ORANGE, lane: BLUE} if source >= 0 else {lane: BLUE})
    ways = [(begin, one) for one in range(LANES) for begin in (one, one - apart) if begin >= 0]
    thin = "".join(f"M{_middle(begin):.4g} {44 + TALL}L{_middle(one):.4g} 114" for begin, one in ways)
    body.append(f'<path d="{thin}" stroke="currentColor" stroke-width="0.6" stroke-opacity="0.45"/>')
    for begin, colour in ((lane, BLUE), (source, ORANGE)):
        if begin >= 0:
            body.append(line(_middle(begin), 44 + TALL, _middle(lane), 114, colour, 2.5))
    body += [*_labelled("after", after, 114, {lane: GREEN}), text(0, 160, sentence)]
    return drawing(168, body, f"{said}; {sentence}")


def scan_explorer(values: Sequence[int]) -> widgets.VBox:
    return explore_svg(
        lambda step, lane: scan(values, step, lane),
        step=widgets.IntSlider(value=1, min=1, max=len(DISTANCES)),
        lane=widgets.IntSlider(value=20, min=0, max=LANES - 1),
    )


# ---- A cut through bytes ---------------------------------------------------------------------------------------------


def cut(scores: Sequence[int], labels: Sequence[int], count: int) -> tuple[int, int]:
    """Where ``count`` classes end, the labels first: (lowest byte chosen as a whole, how many of the byte below it).

    The lowest byte is 256 if there is none.
    """
    left = count - len(np.unique(labels))
    if left < 0:
        raise ValueError(f"count is {count}; it should be at least {len(np.unique(labels))}, the labels")
    sizes = np.bincount(np.delete(np.asarray(scores), np.unique(labels)), minlength=256)
    byte = 256
    while byte > 0 and sizes[byte - 1] <= left:
        byte -= 1
        left -= int(sizes[byte])
    return byte, left


def compaction(scores: Sequence[int], labels: Sequence[int], count: int) -> str:
    """SVG of up to 32 bytes, those that are chosen, each one's place by a prefix sum, and what is written there."""
    scores = np.asarray(scores)
    if not 0 < len(scores) <= LANES:
        raise ValueError(f"scores has {len(scores)} bytes; it should have 1 to {LANES}")
    byte, taken = cut(scores, labels, count)
    active, _ = ref.select_map(scores, labels, count)
    chosen = np.isin(np.arange(len(scores)), active)
    kinds = {int(c): ORANGE if c in labels else GREEN if scores[c] >= byte else BLUE for c in active}
    rest = f", and {taken} with byte {byte - 1}" if taken else ""
    whole = f"all bytes from {byte} on" if byte < 256 else "no byte as a whole"
    said = f"{count} of {len(scores)} chosen: the labels, {whole}{rest}"
    places = np.where(chosen, np.cumsum(chosen) - 1, -1)
    body = [bold(0, 16, said)]
    body += _labelled("class", np.arange(len(scores)), 26, {}) + _labelled("byte", scores, 52, kinds)
    body += _labelled("chosen", chosen.astype(int), 78, kinds)
    body += _labelled("place", ["" if p < 0 else p for p in places.tolist()], 104, {})
    body += [line(_middle(int(c)), 104 + TALL, _middle(int(p)), 150, kinds[int(c)], 1.5) for p, c in enumerate(active)]
    body += _labelled("written", active, 150, {p: kinds[int(c)] for p, c in enumerate(active)})
    words = "labels orange, above the cut green, at the cut blue; a place is the number of chosen classes before"
    body.append(text(0, 190, words, size=SMALL))
    return drawing(198, body, f"{said}; written: {', '.join(map(str, active))}")


def compaction_explorer(scores: Sequence[int], labels: Sequence[int]) -> widgets.VBox:
    least = len(np.unique(labels))
    return explore_svg(
        lambda count: compaction(scores, labels, count),
        count=widgets.IntSlider(value=(least + len(scores)) // 3, min=least, max=len(scores)),
    )


# ---- The online softmax ----------------------------------------------------------------------------------------------


def online(logits: Sequence[float]) -> list[tuple[float, float]]:
    """(largest so far, sum of e^(logit - largest) so far) after each logit."""
    top, total, path = -np.inf, 0.0, []
    for logit in np.asarray(logits, float):
        higher = max(top, logit)
        total = total * np.exp(top - higher) + np.exp(logit - higher)
        top = higher
        path.append((float(top), float(total)))
    return path


def running(logits: Sequence[float], seen: int) -> str:
    """SVG of e^(logit - top) for the first ``seen`` of up to 32 logits, under the largest that there was so far."""
    logits = np.asarray(logits, float)
    if not 0 < len(logits) <= LANES or not 1 <= seen <= len(logits):
        raise ValueError(
            f"logits has {len(logits)} and seen is {seen}; they should be 1 to {LANES}, and 1 to that many"
        )
    top, total = online(logits)[seen - 1]
    rose = seen == 1 or top > online(logits)[seen - 2][0]
    factor = 0.0 if seen == 1 else np.exp(online(logits)[seen - 2][0] - top)
    said = f"{seen} of {len(logits)} logits read: the largest is {top:.3g}, the sum {total:.3f}"
    happened = f"the sum so far was scaled by {factor:.3f}" if rose else "the largest stays, and so does the sum so far"
    body = [bold(0, 16, said), text(0, 36, f"logit {logits[seen - 1]:.3g} came: {happened}")]
    body.append(text(0, 60, "1"))
    body.append(line(LEFT, 56, WIDTH, 56))
    for k, logit in enumerate(logits[:seen]):
        high = HIGHEST * float(np.exp(logit - top))
        fill = GREEN if logit == top else ORANGE if k == seen - 1 else BLUE
        body.append(box(LEFT + k * CELL + 2, 56 + HIGHEST - high, CELL - 4, high, fill=fill, wide=0.5))
    body.append(line(LEFT, 56 + HIGHEST, WIDTH, 56 + HIGHEST))
    body += _labelled("logit", [f"{x:.2g}" for x in logits], 152, {seen - 1: ORANGE})
    body.append(text(0, 192, "a bar is e^(logit - largest so far); the sum is that of the bars", size=SMALL))
    return drawing(200, body, f"{said}; {happened}")


def running_explorer(logits: Sequence[float]) -> widgets.VBox:
    return explore_svg(
        lambda seen: running(logits, seen), seen=widgets.IntSlider(value=len(logits) // 2, min=1, max=len(logits))
    )


# ---- Bars of counted traffic ----------------------------------------------------------------------------------------


def bars(counts: Mapping[str, float], unit: str, floor: float | None = None) -> str:
    """SVG of a bar a version, and of a line where no version can be below."""
    if not counts or min(counts.values()) <= 0:
        raise ValueError(f"counts is {dict(counts)}; it should have numbers above 0, one for each version")
    left, most = 210, max([*counts.values(), floor or 0])
    scale = (WIDTH - left - 230) / most
    body = [bold(0, 16, unit)]
    for k, (name, value) in enumerate(counts.items()):
        top = 28 + 28 * k
        body += [text(0, top + 15, name), box(left, top, value * scale, 20, fill=BLUE, wide=0.5)]
        times = f", {value / floor:.1f} times the floor" if floor else ""
        body.append(text(left + value * scale + 8, top + 15, f"{value:,.0f}{times}"))
    if floor:
        body.append(line(left + floor * scale, 22, left + floor * scale, 28 + 28 * len(counts), ORANGE, 3))
    return drawing(34 + 28 * len(counts), body, f"{unit}: " + ", ".join(f"{n} {v:,.0f}" for n, v in counts.items()))


def _middle(place: int) -> float:
    return LEFT + (place + 0.5) * CELL


def _labelled(name: str, values: Sequence, top: float, colours: dict[int, str]) -> list[str]:
    return [text(0, top + 15, name), *_row(values, top, colours)]


def _row(values: Sequence, top: float, colours: dict[int, str]) -> list[str]:
    """A box for each value; those in ``colours`` are filled."""
    drawn = [grid(LEFT, top, CELL, TALL, len(values))] if len(values) else []
    drawn += [box(LEFT + i * CELL, top, CELL, TALL, fill=colour, wide=0.5) for i, colour in colours.items()]
    plain = {i: value for i, value in enumerate(values) if i not in colours}
    filled = {i: value for i, value in enumerate(values) if i in colours}
    return [*drawn, _numbers(plain, top + 15, "currentColor"), _numbers(filled, top + 15, "#fff")]


def _numbers(values: dict[int, object], y: float, colour: str) -> str:
    """Each value in the middle of its box. One element for all of them: a notebook holds many."""
    words = "".join(f'<tspan x="{_middle(i):.4g}">{value}</tspan>' for i, value in values.items())
    return f'<text y="{y:g}" font-size="{SMALL}" text-anchor="middle" fill="{colour}">{words}</text>' if words else ""
