"""The notebooks' pictures: pure functions from data to a matplotlib Figure, and ``show`` to display one.

Every series has a marker or line of its own, beside its colour.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from annsoftmax_ref.experiments import figures
from annsoftmax_ref.experiments.figures import BLACK, BLUE, GREEN, ORANGE, RED
from annsoftmax_ref.lessons.costs import head_cost

SERIES = [(BLACK, "o", "-"), (ORANGE, "s", "--"), (BLUE, "^", "-"), (GREEN, "D", "-."), (RED, "P", ":")]
# A frame round a drawing: colour, line, and the sign in its corner.
FRAMES = {"own": (GREEN, "-", "✓"), "in": (BLUE, "-", "●"), "out": (RED, ":", "×"), "": (None, "-", "")}
SIZE = 11  # points, of all text
DPI = 80
TILE, GAP = 32, 6


def glyph_grid(images, columns: int = 16, row_names: Sequence[str] | None = None) -> Figure:
    """Drawings ``images`` [n, 32, 32] (ink 255) in rows of ``columns``; ``row_names`` stand left of the rows."""
    images = _drawings(images)
    rows = -(-len(images) // columns)
    if row_names is not None and len(row_names) != rows:
        raise ValueError(f"row_names has {len(row_names)} names; it should have one for each of the {rows} rows")
    canvas = tiled(images, rows, columns, GAP)
    figure, axes = new_figure(0.5 * columns + (1.5 if row_names is not None else 0), 0.5 * rows)
    axes.imshow(255 - canvas, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    hide_axes(axes)
    if row_names is not None:
        axes.set_yticks(np.arange(rows) * (TILE + GAP) + TILE / 2, row_names)
    return figure


def nearest_rows(queries, found, captions, frames, query_names: Sequence[str]) -> Figure:
    """Rows of drawings: a query, and to its right the classes found for it.

    queries [q, 32, 32]; found [q, k, 32, 32]; captions [q][k], a word under each; frames [q][k], keys of ``FRAMES``:
    "own" (green, a tick), "in" (blue, a dot), "out" (red and dotted, a cross), "" (none).
    query_names [q]: a line left of each query.
    """
    queries, found = _drawings(queries), np.asarray(found)
    if found.ndim != 4 or len(found) != len(queries):
        raise ValueError(f"found has shape {list(found.shape)}; it should be [{len(queries)}, k, 32, 32]")
    across, down = TILE + 12, TILE + 30
    figure, axes = new_figure(0.62 * (found.shape[1] + 1) + 2.2, 0.86 * len(queries))
    for row, query in enumerate(queries):
        put_drawing(axes, query, 0, row * down)
        for column, image in enumerate(found[row]):
            left, top = (column + 1.5) * across, row * down
            put_drawing(axes, image, left, top)
            put_frame(axes, left, top, frames[row][column])
            axes.text(left + TILE / 2, top + TILE + 6, captions[row][column], ha="center", va="top", fontsize=SIZE - 1)
    axes.set(xlim=(-4, (found.shape[1] + 1.5) * across), ylim=(len(queries) * down - 4, -5), aspect="equal")
    hide_axes(axes)
    axes.set_yticks(np.arange(len(queries)) * down + TILE / 2, query_names)
    return figure


def cost_curves(
    num_classes: int, sample_rate: float = 0.1, embedding_size: int = 512, batch_size: int = 1024
) -> Figure:
    """Memory and operations of one step against the number of classes, full and sampled; ``num_classes`` is marked."""
    figure, (memory, work) = new_figure(10, 4, columns=2)
    grid = [10**p for p in range(4, 10)]
    memory.axhline(80, color=GREEN, linestyle="-.")
    memory.text(grid[0], 95, "a GPU of 80 GB", color=GREEN, ha="left", va="bottom")
    for axes, label, unit in (
        (memory, "GB held by the head", lambda cost: cost.memory / 1e9),
        (work, "10¹² operations a step", lambda cost: cost.operations / 1e12),
    ):
        for rate, (colour, marker, line) in zip((1.0, sample_rate), (SERIES[0], SERIES[2]), strict=True):
            name = "full softmax" if rate == 1.0 else f"{rate:.1%} of the classes"
            costs = [unit(head_cost(n, embedding_size, batch_size, rate)) for n in grid]
            here = unit(head_cost(num_classes, embedding_size, batch_size, rate))
            axes.plot(grid, costs, color=colour, linestyle=line, marker=marker, label=f"{name}: {here:,.3g}")
            axes.plot(num_classes, here, color=colour, marker=marker, markersize=11)
        axes.axvline(num_classes, color=RED, linestyle=":")
        axes.set(xscale="log", yscale="log", xlabel=f"classes (dotted: {num_classes:,})", ylabel=label)
        axes.set_xticks(grid, ["10 k", "100 k", "1 M", "10 M", "100 M", "1000 M"])
        ticks = [10.0**p for p in range(-3, 5)]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.legend(loc="upper left")
        axes.grid(alpha=0.3)
    return figure


def lines(x, series: dict[str, Sequence[float]], xlabel: str, ylabel: str, log: str = "x") -> Figure:
    """One line for each named series over x; ``log`` names the logarithmic axes ("", "x", "y" or "xy")."""
    if log not in ("", "x", "y", "xy"):
        raise ValueError(f"log is {log!r}; it should be '', 'x', 'y' or 'xy'")
    if len(series) > len(SERIES):
        raise ValueError(f"series holds {len(series)} lines; it should hold at most {len(SERIES)}, to be told apart")
    figure, axes = new_figure(7, 4)
    for (name, values), (colour, marker, line) in zip(series.items(), SERIES, strict=False):
        axes.plot(x, values, color=colour, marker=marker, linestyle=line, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    for axis in log:
        axes.set(**{f"{axis}scale": "log"})
        getattr(axes, f"{axis}axis").set_major_formatter("{x:,g}")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def mass_curves(curves: dict[str, Sequence[float]]) -> Figure:
    """Softmax mass of the largest classes: for each name, shares [N] that fall and add up to 1.

    Drawn as the mass held by the top part of the classes, that part in per cent on a logarithmic axis; the marks
    stand at 0.1, 1, 10 and 100 %.
    """
    figure, axes = new_figure(7, 4)
    for (name, shares), (colour, marker, line) in zip(curves.items(), SERIES, strict=False):
        held = 100 * np.cumsum(shares)
        part = 100 * np.arange(1, len(held) + 1) / len(held)
        marks = [max(0, round(len(held) * p) - 1) for p in (0.001, 0.01, 0.1, 1.0)]
        axes.plot(part, held, color=colour, marker=marker, linestyle=line, markevery=marks, label=name)
    axes.axvline(10, color=GREEN, linestyle="-.")
    axes.text(9.4, 3, "a tenth", color=GREEN, ha="right")
    axes.set(xscale="log", ylim=(0, 103), xlabel="classes, the largest first, % of all", ylabel="softmax mass held, %")
    axes.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return figure


def png(figure: Figure, density: int = 1) -> bytes:
    """The figure as PNG bytes of 64 colours, a third of the usual size. density: pixels for each of its own."""
    if density != 1:
        figure.set_dpi(density * figure.dpi)
    canvas, packed = FigureCanvasAgg(figure), io.BytesIO()
    canvas.draw()
    image = Image.fromarray(np.array(canvas.buffer_rgba())[..., :3])
    image.quantize(64).save(packed, format="png", optimize=True)
    return packed.getvalue()


def show(figure: Figure, alt: str) -> None:
    """Display the figure in a notebook. ``alt``, one sentence, is its text for readers who do not see it."""
    from IPython.display import display

    if not alt.strip():
        raise ValueError("alt is empty; it should say in one sentence what the figure shows")
    data = {"image/png": base64.b64encode(png(figure)).decode(), "text/plain": alt}
    display(data, raw=True, metadata={"image/png": {"alt": alt}})


def new_figure(width: float, height: float, columns: int = 1):
    """``figures.new_figure`` for a notebook, with text of ``SIZE`` at its axes."""
    figure, axes = figures.new_figure(width, height, columns=columns, dpi=DPI)
    for one in np.atleast_1d(axes):
        one.xaxis.label.set_size(SIZE)
        one.yaxis.label.set_size(SIZE)
        one.tick_params(labelsize=SIZE)
    return figure, axes


def tiled(images, rows: int, columns: int, gap: int = 0) -> np.ndarray:
    """images [n, 32, 32], n <= rows * columns -> one picture of them row by row, ``gap`` apart; the rest is 0."""
    step = TILE + gap
    canvas = np.zeros((rows * step - gap, columns * step - gap))
    for i, image in enumerate(images):
        top, left = i // columns * step, i % columns * step
        canvas[top : top + TILE, left : left + TILE] = image
    return canvas


def hide_axes(axes) -> None:
    """No ticks and no border: for a picture of drawings."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def put_drawing(axes, image, left: float, top: float) -> None:
    """image [32, 32], 255 is black, with its upper left corner at (left, top); a unit is a pixel."""
    axes.imshow(
        255 - np.asarray(image),
        cmap="gray",
        vmin=0,
        vmax=255,
        interpolation="nearest",
        extent=(left, left + TILE, top + TILE, top),
    )


def put_frame(axes, left: float, top: float, kind: str) -> None:
    """A frame of ``FRAMES`` with its sign, round the drawing at (left, top)."""
    if kind not in FRAMES:
        raise ValueError(f"frame is {kind!r}; it should be one of {', '.join(map(repr, FRAMES))}")
    colour, line, sign = FRAMES[kind]
    if colour is None:
        return
    x, y = left + np.array([-3, 35, 35, -3, -3]), top + np.array([-3, -3, 35, 35, -3])
    axes.plot(x, y, color=colour, linestyle=line, linewidth=2.5)
    axes.text(
        left + TILE + 3,
        top - 3,
        sign,
        color="white",
        fontsize=10,
        ha="center",
        va="center",
        bbox={"boxstyle": "circle,pad=0.12", "color": colour},
    )


def put_row(axes, query, drawings: Iterable, frames: Iterable[str], places: int) -> None:
    """A query and, right of it, drawings [n, 32, 32] in their frames, n <= ``places``, on axes of their own."""
    step = TILE + 14
    put_drawing(axes, query, 0, 0)
    for place, (image, frame) in enumerate(zip(drawings, frames, strict=True)):
        left = (place + 1.5) * step
        put_drawing(axes, image, left, 0)
        put_frame(axes, left, 0, frame)
    axes.set(xlim=(-4, (places + 1.5) * step), ylim=(TILE + 6, -8), aspect="equal")
    hide_axes(axes)


def _drawings(images) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 3 or images.shape[1:] != (TILE, TILE) or len(images) == 0:
        raise ValueError(f"images has shape {list(images.shape)}; it should be [n, 32, 32], n >= 1")
    return images
