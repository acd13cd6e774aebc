"""The picture and the exercises of notebook 02: what a sample of the classes says of all of them."""

from __future__ import annotations

from functools import cache

import numpy as np
from matplotlib.figure import Figure

from annsoftmax_ref import reference as ref
from annsoftmax_ref.experiments.figures import BLUE, GREEN, RED, new_figure
from annsoftmax_ref.lessons.exercises import Exercise
from annsoftmax_ref.lessons.pictures import DPI
from annsoftmax_ref.lessons.trained import load_trained

DRAWS = 150
# Each way to weigh the classes, with its colour and marker.
WAYS = (("random, as it is", RED, "o"), ("random, corrected", BLUE, "^"), ("nearest half and tail", GREEN, "D"))


def random_weights(own: int, A: int, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the classes in random active sets of A classes, plain and corrected, [draws, N] each.

    keys [draws, N] in (0, 1): a draw takes the classes with the largest keys, ``own`` always among them. Plain: 1 if
    active, else 0. Corrected: one over the chance to be active.
    """
    return _drawn(np.array([own]), A, keys, counted=False), _drawn(np.array([own]), A, keys, counted=True)


def tail_weights(logits: np.ndarray, own: int, A: int, keys: np.ndarray) -> np.ndarray:
    """Half of the A classes are ``own`` and those of the largest logits [N]; the others are drawn for all the rest."""
    ranked = logits.copy()
    ranked[own] = np.inf
    searched = np.argpartition(-ranked, min(A // 2, len(logits) - 1))[: max(1, A // 2)]
    return _drawn(searched, A, keys, counted=True)


def _drawn(certain: np.ndarray, A: int, keys: np.ndarray, counted: bool) -> np.ndarray:
    """``certain`` classes with weight 1, and drawn ones up to A, with weight 1 or as many as they are counted for."""
    draws, N = keys.shape
    places = A - len(certain)
    keys = keys.copy()
    keys[:, certain] = -1
    weights = np.zeros((draws, N))
    if places > 0:
        chosen = np.argpartition(-keys, places - 1, axis=1)[:, :places]
        np.put_along_axis(weights, chosen, (N - len(certain)) / places if counted else 1.0, axis=1)
    weights[:, certain] = 1
    return weights


def seen_through(weights: np.ndarray, x: np.ndarray, w: np.ndarray, own: int, scale: float):
    """The partition function and the gradient of x as weighted classes give them, next to the true ones.

    weights [draws, N], x [d], w [N, d] unit rows -> Z_hat / Z [draws], |dx_hat - dx| / |dx| [draws].
    """
    logits = scale * w @ x
    terms = np.exp(logits - logits.max())  # [N]

    def gradient(weighted):  # [draws, N] -> [draws, d]
        pull = weighted @ w / weighted.sum(axis=1, keepdims=True) - w[own]
        return pull - np.outer(pull @ x, x)  # x has length 1: what points along x is lost

    weighted, true = weights * terms, gradient(terms[None])
    errors = np.linalg.norm(gradient(weighted) - true, axis=1) / np.linalg.norm(true)
    return weighted.sum(axis=1) / terms.sum(), errors


def draw_estimates(rate: float = 0.1, scale: float = 20.0, drawing: int = 0, seed: int = 0) -> Figure:
    """150 active sets of one drawing, in three ways: the partition function they give, and the gradient's error.

    rate: A / N. drawing: a row of ``load_trained().batch``. Each dot is one draw, the bar the mean over all.
    """
    x, w, labels = _trained()
    A, own = ref.active_count(len(w), rate), int(labels[drawing])
    keys = np.random.default_rng(seed).random((DRAWS, len(w)))
    ways = (*random_weights(own, A, keys), tail_weights(scale * w @ x[drawing], own, A, keys))
    seen = [seen_through(weights, x[drawing], w, own, scale) for weights in ways]
    figure, panels = new_figure(10, 3.2, columns=2, dpi=DPI, sharey=True)
    jitter = np.random.default_rng(1).uniform(-0.25, 0.25, DRAWS)
    for axes, place, words in zip(
        panels,
        (0, 1),
        ("estimate of Z, true value 1", "error of the gradient, true length 1"),
        strict=True,
    ):
        for row, ((_, colour, marker), values) in enumerate(zip(WAYS, seen, strict=True)):
            mean = values[place].mean()
            axes.plot(values[place], row + jitter, marker, color=colour, markersize=4, alpha=0.5, markeredgewidth=0)
            axes.plot([mean, mean], [row - 0.4, row + 0.4], color="black", linewidth=2.5)
            axes.text(mean, row - 0.42, f" mean {mean:.2f}", fontsize=10, va="bottom")
        axes.axvline(1 - place, color="black", linestyle=":")  # where a perfect estimate stands
        axes.set(xlim=(-0.03, max(1.3, 1.05 * max(values[place].max() for values in seen))), ylim=(2.6, -0.75))
        axes.set_xlabel(words, fontsize=11)
        axes.set_yticks(range(3), [name for name, _, _ in WAYS], fontsize=11)
        axes.grid(alpha=0.3, axis="x")
    figure.suptitle(f"{A:,} of {len(w):,} classes, scale {scale:g}", fontsize=11)
    return figure


@cache
def _trained() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [q, d] and w [N, d] in float64, labels [q]."""
    trained = load_trained()
    return trained.batch.astype(np.float64), trained.prototypes.astype(np.float64), trained.batch_labels


# ---------------------------------------------------------------------------------------- exercises


def corrected_log_z(own, sampled, others):
    """log Z of a sample from its own logit and those ``sampled`` [m] uniformly of its ``others`` other classes."""
    return ref.log_sum_exp(np.append(sampled + np.log(others / len(sampled)), own))


def relative_spread(terms, q, m):
    """Standard deviation of sum_c terms_c / (m q_c) over m draws from q [n], divided by the sum of terms [n]."""
    return np.sqrt((np.sum(terms**2 / q) - terms.sum() ** 2) / m) / terms.sum()


def draws_needed(terms, q, spread):
    """The least number of draws whose relative spread is at most ``spread``."""
    return int(np.ceil((relative_spread(terms, q, 1) / spread) ** 2))


_TERMS = np.array([8.0, 4.0, 2.0, 1.0, 1.0])
EXERCISES = {
    "corrected_log_z": Exercise(
        corrected_log_z,
        [(2.0, np.array([1.0, 0.0]), 5), (0.0, np.zeros(3), 3), (900.0, np.array([901.0, 899.0]), 1000)],
        hint="each sampled logit stands for others / m classes; take the largest out of the sum before any exp",
    ),
    "relative_spread": Exercise(
        relative_spread,
        [(_TERMS, np.full(5, 0.2), 4), (_TERMS, _TERMS / 16, 4), (np.ones(4), np.array([0.7, 0.1, 0.1, 0.1]), 9)],
        hint="the variance of one draw is the mean of (term / q)^2 under q, less the square of the sum",
    ),
    "draws_needed": Exercise(
        draws_needed,
        [(_TERMS, np.full(5, 0.2), 0.1), (_TERMS, np.array([0.4, 0.3, 0.1, 0.1, 0.1]), 0.1)],
        hint="the spread falls with the square root of the draws; a whole number, rounded up",
    ),
}
