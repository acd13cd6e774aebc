"""Rows that lag behind their optimizer: the picture and the exercises of notebook 09."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from annsoftmax_ref import reference as ref
from annsoftmax_ref.experiments import figures
from annsoftmax_ref.lessons import pictures
from annsoftmax_ref.lessons.exercises import Exercise

LONGEST = 100  # steps that the picture has room for
DECAY = 0.01


def missed_path(lag: int, momentum: float, learning_rate: float, weight_decay: float = DECAY) -> np.ndarray:
    """(weight, velocity) after 0, 1, ..., lag steps without a gradient, from (1, 1), step by step -> [lag + 1, 2]."""
    state = np.ones(1), np.ones(1)
    path = [state]
    for _ in range(lag):
        state = ref.sgd_step(*state, np.zeros(1), learning_rate, momentum, weight_decay)
        path.append(state)
    return np.array(path)[:, :, 0]


def jump(lag: int, momentum: float, learning_rate: float, weight_decay: float = DECAY) -> tuple[float, float]:
    """The last point of ``missed_path`` at once: a power of one 2x2 matrix."""
    power = np.linalg.matrix_power(ref.sgd_missed_matrix(learning_rate, momentum, weight_decay), lag)
    weight, velocity = power @ np.ones(2)
    return float(weight), float(velocity)


def draw(lag: int = 30, momentum: float = 0.9, learning_rate: float = 0.1) -> Figure:
    """One weight of a row that has no gradient for ``lag`` steps: step by step, left where it was, and by the jump."""
    if not 1 <= lag <= LONGEST:
        raise ValueError(f"lag is {lag}; it should be from 1 to {LONGEST}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum is {momentum}; it should be at least 0 and below 1")
    path = missed_path(lag, momentum, learning_rate)[:, 0]
    landed, _ = jump(lag, momentum, learning_rate)
    series = {"left where it was": np.ones(lag + 1), f"step by step: {path[-1]:.4f}": path}
    figure = pictures.lines(np.arange(lag + 1), series, "steps without a gradient", "one weight of the row", log="")
    (axes,) = figure.axes
    arrow = {"arrowstyle": "->", "color": figures.BLUE, "linewidth": 2, "connectionstyle": "arc3,rad=-0.3"}
    axes.annotate("", xy=(lag, landed), xytext=(0, 1), arrowprops=arrow)
    axes.plot(lag, landed, "^", color=figures.BLUE, markersize=12, label=f"in one jump: {landed:.4f}")
    low = min(0.0, 1.1 * path.min())
    axes.set(xlim=(-3, LONGEST + 3), ylim=(low, 1.5))
    axes.legend(loc="upper right")
    return figure


class NumPyRowSGD:
    """SGD on rows w [N, d] in NumPy; rows without a gradient are left alone, and caught up by a table of their ages.

    ``last`` [N] is the step to which each row is up to date, ``table`` [ages, 2, 2] what so many missed steps do.
    ``annsoftmax_ref.RowSGD`` is the same in PyTorch. Derived in notebook 09, section "A row optimizer".
    """

    def __init__(self, w: np.ndarray, momentum: float = 0.9, weight_decay: float = 0.0):
        self.w, self.v = w.copy(), np.zeros_like(w)
        self.momentum, self.weight_decay = momentum, weight_decay
        self.step, self.last, self.table = 0, np.zeros(len(w), int), np.eye(2)[None]

    def catch_up(self, ids: np.ndarray) -> None:
        """Apply the steps that rows ids [n] have missed. To be called before anyone reads them."""
        ids = ids[self.last[ids] < self.step]
        M = self.table[self.step - self.last[ids]]  # [n, 2, 2]
        w, v = self.w[ids], self.v[ids]
        self.w[ids] = M[:, 0, :1] * w + M[:, 0, 1:] * v
        self.v[ids] = M[:, 1, :1] * w + M[:, 1, 1:] * v
        self.last[ids] = self.step

    def move(self, ids: np.ndarray, gradient: np.ndarray, lr: float) -> None:
        """One step, with the gradient [n, d] of rows ids [n]."""
        self.catch_up(ids)
        self.w[ids], self.v[ids] = ref.sgd_step(
            self.w[ids], self.v[ids], gradient, lr, self.momentum, self.weight_decay
        )
        self.step += 1
        self.last[ids] = self.step
        missed = ref.sgd_missed_matrix(lr, self.momentum, self.weight_decay)
        self.table = np.concatenate([np.eye(2)[None], missed @ self.table])


# --- exercises ---------------------------------------------------------------------------------


def total_drift(learning_rate: float, momentum: float, velocity: np.ndarray) -> np.ndarray:
    """lr mu v (1 + mu + mu^2 + ...), the sum of all steps to come."""
    return learning_rate * momentum / (1 - momentum) * velocity


def jump_without_decay(w, v, learning_rate: float, momentum: float, steps: int) -> tuple:
    power = momentum**steps
    return w - total_drift(learning_rate, momentum, v) * (1 - power), power * v


def nesterov_matrix(learning_rate: float, momentum: float, weight_decay: float) -> np.ndarray:
    return ref.sgd_missed_matrix(learning_rate, momentum, weight_decay, nesterov=True)


EXERCISES = {
    "total_drift": Exercise(
        total_drift,
        [(0.1, 0.9, 1.0), (0.5, 0.0, 2.0), (0.2, 0.5, np.array([1.0, -3.0]))],
        hint="the velocities to come are mu v, mu^2 v, ...: a geometric series that begins with mu v",
    ),
    "jump_without_decay": Exercise(
        jump_without_decay,
        [(1.0, 1.0, 0.1, 0.9, 0), (1.0, 1.0, 0.1, 0.9, 1), (np.array([0.5, 2.0]), np.array([1.0, -1.0]), 0.2, 0.8, 30)],
        hint="after K steps a share 1 - mu^K of the whole drift is done, and v has become mu^K v",
    ),
    "nesterov_matrix": Exercise(
        nesterov_matrix,
        [(0.1, 0.9, 0.0), (0.1, 0.9, 0.01), (0.5, 0.5, 0.1)],
        hint="put v' = mu v + wd w into w' = w - lr (wd w + mu v'), and collect what multiplies w and what v",
    ),
}
