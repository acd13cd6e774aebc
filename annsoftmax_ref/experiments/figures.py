"""What all figures share: their colours, and how one is made.

Colours are Okabe and Ito's, told apart by the colour-blind. Figures are opaque white, so that they read alike in light
and dark themes. No pyplot: nothing is drawn until it is asked for.
"""

from __future__ import annotations

from matplotlib.figure import Figure

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, RED, PINK = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"


def new_figure(width: float, height: float, columns: int = 1, dpi: int = 100, **subplots):
    """A figure in inches, and its axes: one, or an array of ``columns`` side by side. subplots: as matplotlib has them,
    such as ``sharey``."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained", facecolor="white")
    return figure, figure.subplots(1, columns, **subplots)
