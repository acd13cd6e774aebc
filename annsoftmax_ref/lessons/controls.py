"""Controls that move a picture: sliders and a pure function from their values to a figure."""

from __future__ import annotations

import gc
from collections.abc import Callable

import ipywidgets as widgets
from matplotlib.figure import Figure

from annsoftmax_ref.lessons.pictures import png

SHARP = 2  # pixels of a picture for each that it takes on the page: screens have so many


def new_image() -> widgets.Image:
    """A place for pictures, no wider than the page."""
    return widgets.Image(format="png", layout=widgets.Layout(max_width="100%", height="auto"))


def put_figure(image: widgets.Image, figure: Figure) -> None:
    """Show the figure in its own size, sharp; an Image by itself stretches to the width of the page."""
    width = figure.get_size_inches()[0] * figure.dpi
    image.value = png(figure, density=SHARP)
    image.layout.width = f"{width:.0f}px"


def explore(draw: Callable[..., Figure], **controls: widgets.ValueWidget) -> widgets.VBox:
    """A box with the controls, and below them the picture ``draw(**values)``, drawn again when one of them moves.

    The controls are named by ``draw``'s arguments: ``explore(draw, bits=widgets.IntSlider(...))``; each keeps its own
    description, or gets its name for one. No ``interact`` and no Output widget: both behave differently under test.
    ``box.controls`` is the dict of them and ``box.picture`` the Image, so that a test can set a control's ``value``
    and see that of the picture change. A callback's error would go unseen in a notebook, so it is shown in the box.
    """
    picture = new_image()
    box = _box(lambda **values: put_figure(picture, draw(**values)), picture, controls)
    # A figure is garbage in cycles. To find it, the collector looks through all that torch and matplotlib hold, 0.3 s
    # at a time, while somebody waits for a picture; what is frozen it passes over.
    gc.collect()
    gc.freeze()
    return box


def explore_svg(draw: Callable[..., str], **controls: widgets.ValueWidget) -> widgets.VBox:
    """The same for a ``draw`` that returns SVG or HTML; ``box.picture`` is an HTML widget."""
    picture = widgets.HTML()

    def put(**values) -> None:
        picture.value = draw(**values)

    return _box(put, picture, controls)


def _box(put: Callable[..., None], picture: widgets.ValueWidget, controls: dict) -> widgets.VBox:
    """``put(**values)`` puts the picture of the controls' values into its place."""
    message = widgets.HTML()
    for name, control in controls.items():
        control.description = control.description or name.replace("_", " ")

    def redraw(change=None) -> None:
        try:
            put(**{name: control.value for name, control in controls.items()})
            message.value = ""
        except ValueError as error:  # values that do not go together
            message.value = f"<b>{error}</b>"

    for control in controls.values():
        control.observe(redraw, "value")
    redraw()
    box = widgets.VBox([*controls.values(), message, picture])
    box.controls, box.picture, box.message = controls, picture, message
    return box
