"""Small drawings in SVG, as text: the same in every run, sharp at every size, legible on a white and a black page.

Lines and text have the colour of the page's own text (``currentColor``); fills are of a middle brightness.
"""

from __future__ import annotations

import html

BLUE, ORANGE, GREEN, RED = "#3d7fc4", "#c9791a", "#2f9160", "#c9463d"
WIDTH = 760  # pixels: of a notebook's output
SMALL, NORMAL = 11, 13  # pixels: of text


def drawing(height: float, body: list[str], label: str, width: float = WIDTH) -> str:
    """The picture; ``label`` is what it shows, in a sentence, for those who do not see it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{html.escape(label)}" style="max-width:{width:g}px;width:100%;font-family:sans-serif">'
        f"{''.join(body)}</svg>"
    )


def box(x: float, y: float, width: float, height: float, fill: str = "none", line: str = "currentColor", wide=1) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
        f'fill="{fill}" stroke="{line}" stroke-width="{wide:g}"/>'
    )


def grid(x: float, y: float, cell: float, height: float, count: int) -> str:
    """``count`` empty boxes side by side."""
    bars = "".join(f"M{x + i * cell:g} {y:g}v{height:g}" for i in range(count + 1))
    sides = "".join(f"M{x:g} {y + below:g}h{count * cell:g}" for below in (0, height))
    return f'<path d="{bars}{sides}" fill="none" stroke="currentColor" stroke-width="0.5"/>'


def letters(places: list[float], y: float, word: str, size: int = SMALL, colour: str = "currentColor") -> str:
    """One letter of the word at each place."""
    across = " ".join(f"{x:g}" for x in places)
    return f'<text x="{across}" y="{y:g}" font-size="{size}" fill="{colour}">{html.escape(word)}</text>'


def text(
    x: float, y: float, words, size: int = NORMAL, colour: str = "currentColor", at: str = "start", more=""
) -> str:
    """``at``: whether x is the start, the middle or the end of the words."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{at}"{more}>'
        f"{html.escape(str(words))}</text>"
    )


def bold(x: float, y: float, words, **options) -> str:
    return text(x, y, words, more=' font-weight="bold"', **options)


def line(x: float, y: float, to_x: float, to_y: float, colour: str = "currentColor", wide: float = 1) -> str:
    return (
        f'<line x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}" stroke="{colour}" stroke-width="{wide:g}" '
        f'stroke-opacity="{1 if wide > 1 else 0.45}"/>'
    )


def show(picture: str, alt: str) -> None:
    """Display the picture in a notebook. ``alt``: one sentence on what it shows."""
    from IPython.display import display

    if not alt.strip():
        raise ValueError("alt is empty; it should say in one sentence what the picture shows")
    display({"text/html": picture, "text/plain": alt}, raw=True)
