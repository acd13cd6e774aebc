"""The picture and the exercises of notebook 16: what one search says of the partition function."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from annsoftmax_ref import reference as ref
from annsoftmax_ref.experiments.figures import BLACK, RED, new_figure
from annsoftmax_ref.lessons import pictures
from annsoftmax_ref.lessons.exercises import Exercise


def means_of(ratios: np.ndarray, draws: int) -> np.ndarray:
    """ratios [D, b] -> the means of ``draws`` draws after one another [D // draws, b]; of one draw, that one."""
    if len(ratios) == 1:  # nothing is drawn
        return ratios
    whole = len(ratios) // draws
    return ratios[: whole * draws].reshape(whole, draws, -1).mean(axis=1)


def error_of_means(ratios: np.ndarray, draws: int) -> float:
    """Root mean square of Z_hat / Z - 1 over samples and means of ``draws`` draws; ratios [D, b], D = 1 if certain."""
    return float(np.sqrt(np.mean((means_of(ratios, draws) - 1) ** 2)))


def draw_spread(ways: Mapping[str, np.ndarray], draws: int = 1, sample: int = 0) -> Figure:
    """Z_hat / Z of one sample, a dot for each mean of ``draws`` draws, and the error of all samples against draws.

    ways: of each name the ratios [D, b], or [1, b] where nothing is drawn.
    """
    most = max(len(ratios) for ratios in ways.values())
    if not 1 <= draws <= most:
        raise ValueError(f"draws is {draws}; it should be from 1 to {most}")
    figure, (dots, lines) = new_figure(10, 3.6, columns=2, dpi=pictures.DPI)
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, most)
    counts = 2 ** np.arange(int(np.log2(most)) + 1)
    for row, ((name, ratios), (colour, marker, line)) in enumerate(zip(ways.items(), pictures.SERIES, strict=False)):
        values = means_of(ratios, draws)[:, sample]
        dots.plot(values, row + jitter[: len(values)], marker, color=colour, markersize=4, alpha=0.6)
        errors = [100 * error_of_means(ratios, count) for count in counts]
        lines.plot(counts, errors, color=colour, marker=marker, linestyle=line, label=name)
    dots.axvline(1, color=BLACK, linestyle=":")
    dots.set_yticks(range(len(ways)), list(ways), fontsize=pictures.SIZE)
    dots.set(ylim=(len(ways) - 0.5, -0.6))
    dots.set_xlabel(f"estimate of Z, true value 1; means of {draws}", fontsize=pictures.SIZE)
    lines.axvline(draws, color=RED, linestyle=":")
    lines.set(xscale="log", yscale="log")
    lines.set_xticks(counts, [str(count) for count in counts])
    lines.minorticks_off()
    lines.yaxis.set_major_formatter("{x:g}")
    lines.set_xlabel("draws that are averaged", fontsize=pictures.SIZE)
    lines.set_ylabel("error of Z, %", fontsize=pictures.SIZE)
    for axes in (dots, lines):
        axes.grid(alpha=0.3)
    return figure


# --- exercises ---------------------------------------------------------------------------------------------


def averaged_log_z(log_z: np.ndarray) -> float:
    """log of the mean of e^log_z, whatever the size of these."""
    return float(ref.log_sum_exp(log_z[None])[0] - np.log(len(log_z)))


def far_logit(mean: np.ndarray, left: int, x: np.ndarray, scale: float) -> float:
    """The logit of ``left`` rows that spread about ``mean`` alike in all directions."""
    if left == 0:
        return -np.inf
    return float(np.log(left) + scale * mean @ x + scale**2 * (1 - mean @ mean) / (2 * len(x)))


def next_rate(rate: float, mass: float, target: float, least: float) -> float:
    """The rate after one look at the mass."""
    factor = (max(1 - mass, 1e-6) / (1 - target)) ** 0.05
    return min(1.0, max(least, rate * min(1.1, max(1 / 1.1, factor))))


def tail_log_weights(searched: int, drawn: int, num_classes: int) -> np.ndarray:
    """Log-weights of an active set: ``searched`` classes for themselves, then ``drawn`` ones for all others."""
    each = np.log((num_classes - searched) / drawn) if drawn else 0.0
    return np.concatenate([np.zeros(searched), np.full(drawn, each)])


_MEAN = np.array([0.3, -0.2, 0.1, 0.4])
EXERCISES = {
    "tail_log_weights": Exercise(
        tail_log_weights,
        [(2, 3, 5), (3, 2, 11), (4, 0, 9), (0, 1, 1000), (1, 4, 10**9)],
        hint="A drawn class is in with a chance of drawn / (num_classes - searched); its weight is one over that.",
    ),
    "averaged_log_z": Exercise(
        averaged_log_z,
        [(np.array([1.0, 1.0]),), (np.array([0.0, 2.0, -1.0]),), (np.array([900.0, 901.0]),), (np.array([-900.0]),)],
        hint="The mean is of Z, not of log Z. Take the largest log out first, so that nothing overflows.",
    ),
    "far_logit": Exercise(
        far_logit,
        [
            (_MEAN, 1, np.array([1.0, 0.0, 0.0, 0.0]), 1.0),
            (_MEAN, 100, np.array([0.6, 0.0, 0.0, -0.8]), 20.0),
            (np.zeros(4), 7, np.array([0.0, 1.0, 0.0, 0.0]), 5.0),
            (np.array([0.0, 1.0, 0.0, 0.0]), 3, np.array([0.0, 1.0, 0.0, 0.0]), 900.0),
            (_MEAN, 0, np.array([1.0, 0.0, 0.0, 0.0]), 20.0),
        ],
        hint="So many classes with the same logit are one with that logit plus the logarithm of their number.",
    ),
    "next_rate": Exercise(
        next_rate,
        [
            (0.1, 0.9, 0.9, 0.02),  # at its target: stays
            (0.1, 0.8, 0.9, 0.02),
            (0.1, 0.95, 0.9, 0.02),
            (0.1, 0.0, 0.999, 0.02),  # a tenth a step at most
            (0.1, 1.0, 0.5, 0.02),
            (0.02, 0.99, 0.9, 0.02),  # never below the least
            (0.99, 0.1, 0.99, 0.02),  # never above 1
        ],
        hint="Bound the factor first, between 1 / 1.1 and 1.1, and then the rate.",
    ),
}
