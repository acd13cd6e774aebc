"""Diagrams of what a notebook is about, as SVG: a step, an inverted file, an active set's places, missed steps.

Each function returns a ``Diagram``, which a notebook displays as a cell's last line. Boxes are coloured and named, and
the ground is opaque white, so that a diagram reads alike in light and dark themes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from annsoftmax_ref.experiments.figures import BLACK, BLUE, GREEN, ORANGE

GREY, PALE, SKY_PALE, GREEN_PALE, ORANGE_PALE = "#6b6b6b", "#f4f4f4", "#dcedf9", "#d6efe6", "#fdeecb"
# The stages of a step, in their order, each with what becomes of the batch in it.
STAGES = {
    "groups": "who shares a set",
    "search": "nearest classes",
    "active set": "A for each group",
    "rows": "of A classes",
    "objective": "margin, softmax",
    "gradients": "samples and rows",
    "row update": "those rows alone",
    "index": "codes of these",
}


@dataclass(frozen=True)
class Diagram:
    """svg: a whole SVG image. alt: what it shows, for readers who do not see it."""

    svg: str
    alt: str

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"image/svg+xml": self.svg, "text/plain": self.alt}, {"image/svg+xml": {"alt": self.alt}}


def step(here: Sequence[str] = ()) -> Diagram:
    """The eight stages of a step, and what is kept from one to the next: rows and index. ``here``: stages marked."""
    unknown = [name for name in here if name not in STAGES]
    if unknown:
        raise ValueError(f"here names {unknown[0]!r}; it should name stages: {', '.join(STAGES)}")
    width, across = 132, 158
    left = {name: 78 + across * column for column, name in enumerate(list(STAGES)[:5])}
    left |= {"gradients": left["objective"], "row update": left["rows"], "index": left["search"]}
    parts = [_text(8, 38, "batch", anchor="start"), _text(8, 54, "[B, d]", GREY, anchor="start")]
    parts += [_arrow(50, 44, left["groups"] - 4, 44)]
    for number, (name, what) in enumerate(STAGES.items(), start=1):
        x, y = left[name], 16 if number < 6 else 208
        parts += [_box(x, y, width, 56, *((ORANGE_PALE, ORANGE) if name in here else (PALE, GREY)))]
        parts += [_text(x + width / 2, y + 24, f"{number} {name}", weight="bold")]
        parts += [_text(x + width / 2, y + 44, what, GREY)]
        if number < 5:
            parts.append(_arrow(x + width, 44, x + across - 4, 44))
    for name, what, size in (("search", "index", "codes in lists"), ("rows", "weight", "N rows of length d")):
        x = left[name]
        parts += [_box(x, 112, width, 56, SKY_PALE, BLUE), _text(x + width / 2, 136, what, weight="bold")]
        parts += [_text(x + width / 2, 156, size, GREY)]
        parts += [_arrow(x + width / 2, 112, x + width / 2, 76), _arrow(x + width / 2, 208, x + width / 2, 172)]
    right = left["objective"] + width / 2
    parts += [_arrow(right, 72, right, 204), _arrow(left["gradients"], 236, left["rows"] + width + 4, 236)]
    parts += [_arrow(left["row update"], 236, left["search"] + width + 4, 236)]
    parts += [_arrow(right, 264, right, 286), _text(right - 8, 284, "to the network", GREY, anchor="end")]
    alt = "A step: groups, search, active set, rows, objective; back by gradients, row update and index, which change"
    alt += " the weight and the codes that the next step reads."
    return _diagram(858, 296, parts, alt + (f" Marked: {', '.join(here)}." if here else ""))


def inverted_file(
    names: Sequence[str], codes: Sequence[str], assignment, probed: Sequence[int], query: tuple[str, str]
) -> Diagram:
    """Lists, each with its members and their codes, and a query that looks into those ``probed``, the nearest first.

    names [N], codes [N] as "0110...", assignment [N]: list of each class. query: its name and its code.
    """
    assignment = np.asarray(assignment)
    members = [np.flatnonzero(assignment == one) for one in range(assignment.max() + 1)]
    if not set(probed) <= set(range(len(members))):
        raise ValueError(f"probed is {list(probed)}; it should name lists from 0 to {len(members) - 1}")
    down, most = 30, max(map(len, members))
    height = 120 + down * most
    parts = [_text(70, height / 2 - 34, f"query {query[0]}", weight="bold"), *_code(20, height / 2 - 22, query[1])]
    for one, classes in enumerate(members):
        x, found = 210 + 190 * one, one in probed
        fill, line = (SKY_PALE, BLUE) if found else (PALE, GREY)
        parts += [_box(x, 52, 166, 34, fill, line), _text(x + 83, 74, f"centroid {one}", weight="bold")]
        parts += [_box(x, 94, 166, down * len(classes) + 10, "#ffffff", line, dashed=not found)]
        for place, c in enumerate(classes):
            y = 104 + down * place
            parts += [_text(x + 20, y + 16, names[c], weight="bold"), *_code(x + 42, y + 2, codes[c], faint=not found)]
        words = f"probe {list(probed).index(one) + 1}: read" if found else "not read"
        parts.append(_text(x + 83, 34, words, BLUE if found else GREY))
    alt = f"An inverted file of {len(members)} lists. The query {query[0]} reads"
    alt += f" {', then '.join(f'list {one}: ' + ' '.join(names[c] for c in members[one]) for one in probed)}."
    return _diagram(210 + 190 * len(members), height, parts, alt + " It reads none of the other lists.")


def shared_places(names: Sequence[str], splits: Sequence[tuple[Sequence, Sequence]], labels, candidates) -> Diagram:
    """Whose the places of active sets are, for one or more ways to split the same samples into groups.

    splits: of each way its groups (positions of samples) and their active sets (class numbers). labels [B],
    candidates [B, k]. A place is green for a group's label; else blue, with the samples that asked for its class.
    """
    labels, candidates, parts, y = np.asarray(labels), np.asarray(candidates), [], 18
    counted = []
    for groups, sets in splits:
        parts.append(_text(16, y + 14, _count(len(groups), "group"), anchor="start", weight="bold"))
        recalled = 0
        for group, active in zip(groups, sets, strict=True):
            parts.append(_text(112, y + 40, "samples " + " ".join(names[c] for c in labels[group]), anchor="start"))
            for place, c in enumerate(active):
                x, own = 260 + 92 * place, c in labels[group]
                asked = [names[labels[i]] for i in group if c in candidates[i] and c != labels[i]]
                recalled += len(asked)
                parts.append(_box(x, y + 8, 82, 52, *((GREEN_PALE, GREEN) if own else (SKY_PALE, BLUE))))
                parts.append(_text(x + 41, y + 30, names[c], weight="bold", size=17))
                words = "label" if own and not asked else ("label, " if own else "") + "for " + " ".join(asked)
                parts.append(_text(x + 41, y + 51, words, GREY, size=12))
            y += 68
        counted.append(f"with {_count(len(groups), 'group')} {recalled}")
        y += 16
    alt = "Places of active sets. Near classes that samples find in their own sets: " + ", ".join(counted) + "."
    return _diagram(280 + 92 * max(len(active) for _, sets in splits for active in sets), y, parts, alt)


def missed_steps(steps: int = 5) -> Diagram:
    """A row that is touched, left alone for ``steps`` steps, and touched again: M a step, or their product at once."""
    if not 1 <= steps <= 8:
        raise ValueError(f"steps is {steps}; it should be from 1 to 8")
    across, y = 84, 54
    xs = [60 + across * k for k in range(steps + 2)]
    parts = []
    for k, (x, following) in enumerate(zip(xs, xs[1:], strict=False)):
        parts.append(_arrow(x + 15, y, following - 17, y, GREY))
        if k < steps:
            parts.append(_text((x + following) / 2, y - 10, f"M{_subscript(k + 1)}", weight="bold"))
    for k, x in enumerate(xs):
        touched = k in (0, steps + 1)
        parts.append(_circle(x, y, 13, *((GREEN, GREEN) if touched else ("#ffffff", GREY))))
        parts.append(_text(x, y - 26, "touched" if touched else "g = 0", BLACK if touched else GREY))
    first, last = xs[0], xs[steps]
    parts.append(
        f'<path d="M {first} {y + 16} C {first + 40} {y + 92}, {last - 40} {y + 92}, {last} {y + 22}" fill="none" '
        f'stroke="{BLUE}" stroke-width="2.5" marker-end="url(#tip)"/>'
    )
    product = " ".join(f"M{_subscript(k)}" for k in range(steps, 0, -1))
    words = f"{product} at once, just before the row is read"
    parts.append(_text((first + last) / 2, y + 96, words, BLUE, weight="bold"))
    parts.append(_text((first + last) / 2, y + 116, f"one matrix of 2 x 2, the same for all rows of age {steps}", GREY))
    alt = f"A row is touched, then {steps} steps go by without a gradient, a matrix M each; one arrow, their product,"
    return _diagram(xs[-1] + 60, y + 132, parts, alt + " takes the row across all of them before it is touched again.")


# --- what diagrams are made of -----------------------------------------------------------------------------


def _diagram(width: float, height: float, parts: Sequence[str], alt: str) -> Diagram:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img" font-family="DejaVu Sans, Verdana, sans-serif">'
    )
    tip = '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
    tip += 'markerUnits="userSpaceOnUse" orient="auto"><path d="M 0 0 L 8 4 L 0 8 z"/></marker></defs>'
    ground = f'<rect width="{width:g}" height="{height:g}" rx="6" fill="#ffffff"/>'
    return Diagram("\n".join([head, f"<title>{escape(alt)}</title>", tip, ground, *parts, "</svg>"]), alt)


def _text(x: float, y: float, words: str, colour=BLACK, anchor="middle", weight="normal", size: int = 13) -> str:
    style = f'text-anchor="{anchor}" font-weight="{weight}" font-size="{size}" fill="{colour}"'
    return f'<text x="{x:g}" y="{y:g}" {style}>{escape(words)}</text>'


def _box(x: float, y: float, width: float, height: float, fill: str, line: str, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="4 4"' if dashed else ""
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5"'
    return f'<rect {place} fill="{fill}" stroke="{line}" stroke-width="1.5"{dash}/>'


def _circle(x: float, y: float, radius: float, fill: str, line: str) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}" stroke="{line}" stroke-width="2"/>'


def _arrow(x1: float, y1: float, x2: float, y2: float, colour: str = BLACK) -> str:
    ends = f'x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
    return f'<line {ends} stroke="{colour}" stroke-width="1.8" marker-end="url(#tip)"/>'


def _code(x: float, y: float, code: str, faint: bool = False) -> list[str]:
    """A code as a row of cells, dark for 1."""
    dark = "#b5b5b5" if faint else BLACK
    return [
        f'<rect x="{x + 14 * j:g}" y="{y:g}" width="13" height="18" fill="{dark if bit == "1" else "#ffffff"}" '
        f'stroke="{GREY}" stroke-width="0.8"/>'
        for j, bit in enumerate(code)
    ]


def _subscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
