"""Notebook 10: a training run to watch and to stop, the pictures of its measures, its exercises."""

from __future__ import annotations

import dataclasses
import html
import threading
import time
from collections.abc import Sequence

import ipywidgets as widgets
import numpy as np
import torch
from matplotlib.figure import Figure

from annsoftmax_ref import evaluation
from annsoftmax_ref.evaluation.verification import roc
from annsoftmax_ref.experiments import reports
from annsoftmax_ref.experiments.figures import BLUE, GREEN, RED, new_figure
from annsoftmax_ref.experiments.plots import STYLES
from annsoftmax_ref.factory import make_head
from annsoftmax_ref.lessons.controls import new_image, put_figure
from annsoftmax_ref.lessons.exercises import Exercise
from annsoftmax_ref.lessons.pictures import DPI, SIZE
from annsoftmax_ref.training import build_optimizer, build_scheduler, default_recipe, train_step
from annsoftmax_ref.training.network import ConvNet

BINS = np.linspace(-1, 1, 81)  # of the histograms of cosines
EMBEDDING_SIZE = 128


class LiveRun:
    """Heads that are trained side by side on the same batches, in a thread of their own, with curves that grow.

    data: a data set with ``train``, ``test`` and ``num_classes`` (``load_glyphs().subset(1000)``). heads: names of
    ``make_head``. rate: of those that sample. steps: until the run is over; every: so many steps the curves grow.
    ``box`` is the widget: Start goes on where Stop stopped, and begins again after the last step. ``curves`` holds,
    for each head, the lists "step", "loss" (the mean since the last look) and "accuracy" (on ``data.test``).
    ``networks`` and ``heads`` are by name, too.
    """

    def __init__(
        self,
        data,
        heads: Sequence[str] = ("full", "random", "ann"),
        rate: float = 0.1,
        steps: int = 200,
        every: int = 20,
        batch_size: int = 64,
        seed: int = 0,
    ):
        self.data, self.names, self.rate, self.steps, self.every, self.seed = data, heads, rate, steps, every, seed
        self.recipe = dataclasses.replace(default_recipe(), batch_size=batch_size)
        self._thread: threading.Thread | None = None
        self._asked_to_stop = threading.Event()
        self._begin()
        self._make_box()

    def _begin(self) -> None:
        """Everything as it is before the first step."""
        recipe, classes = self.recipe, self.data.num_classes
        self.step, self.generator = 0, torch.Generator().manual_seed(self.seed)
        self.networks = {name: ConvNet(EMBEDDING_SIZE, seed=self.seed) for name in self.names}
        self.heads = {
            name: make_head(name, classes, EMBEDDING_SIZE, recipe.make_objective(), self.rate, seed=self.seed)
            for name in self.names
        }
        self.optimizers = {name: build_optimizer(self.networks[name], self.heads[name], recipe) for name in self.names}
        self.schedulers = {name: build_scheduler(self.optimizers[name], recipe, self.steps) for name in self.names}
        self.losses: dict[str, list[float]] = {name: [] for name in self.names}
        self.curves = {name: {"step": [], "loss": [], "accuracy": []} for name in self.names}

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def points(self) -> int:
        """How many points each curve has."""
        return min(len(curve["accuracy"]) for curve in self.curves.values())

    def start(self, button=None) -> None:
        """Train on, in the background, or from the beginning if all steps are done; nothing if it trains already."""
        if self.running:
            return
        if self.step >= self.steps:
            self._begin()
        self._asked_to_stop.clear()
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def stop(self, button=None) -> None:
        """Stop after the step that is being made, and come back when it is."""
        self._asked_to_stop.set()
        if self._thread is not None:
            self._thread.join()

    def wait(self, points: int | None = None, seconds: float = 280.0) -> None:
        """Come back when the run ends or the curves have that many points. TimeoutError after ``seconds``."""
        until = time.monotonic() + seconds
        while self.running and (points is None or self.points < points):
            if time.monotonic() > until:
                raise TimeoutError(f"the run is at step {self.step} of {self.steps} after {seconds:g} seconds")
            time.sleep(0.02)

    def _train(self) -> None:
        try:
            while self.step < self.steps and not self._asked_to_stop.is_set():
                self._say("training")
                self._one_step()
                if self.step % self.every == 0:
                    self._look()
            self._say("done" if self.step >= self.steps else "stopped")
        except Exception as error:  # in a thread of its own it would go unseen
            self.message.value = f"<b>{type(error).__name__}: {html.escape(str(error))}</b>"

    def _one_step(self) -> None:
        """The same batch, augmented in the same way, for each head."""
        index = torch.randint(len(self.data.train), (self.recipe.batch_size,), generator=self.generator)
        images, labels = self.data.train.batch(index)
        images = self.recipe.augmentation(images, self.generator)
        for name, head in self.heads.items():
            loss, _, _ = train_step(self.networks[name], head, self.optimizers[name], images, labels)
            self.schedulers[name].step()
            self.losses[name].append(loss)
        self.step += 1

    def _look(self) -> None:
        for name, head in self.heads.items():
            self.optimizers[name].flush()  # momentum that rows left out are owed
            head.sync()
            curve = self.curves[name]
            curve["step"].append(self.step)
            curve["loss"].append(float(np.mean(self.losses[name][-self.every :])))
            curve["accuracy"].append(evaluation.accuracy(self.networks[name], head, self.data.test))
        put_figure(self.picture, draw_curves(self.curves))

    def _make_box(self) -> None:
        self.start_button = widgets.Button(description="Start", icon="play")
        self.stop_button = widgets.Button(description="Stop", icon="stop")
        self.start_button.on_click(self.start)
        self.stop_button.on_click(self.stop)
        self.message = widgets.HTML()
        self._say("not started")
        self.picture = new_image()
        put_figure(self.picture, draw_curves(self.curves))
        buttons = widgets.HBox([self.start_button, self.stop_button, self.message])
        self.box = widgets.VBox([buttons, self.picture])

    def _say(self, state: str) -> None:
        if state != "training" or self.step % self.every == 0:  # a message to the browser now and then
            self.message.value = f"{state}: step {self.step} of {self.steps}"


def draw_curves(curves: dict[str, dict[str, list[float]]]) -> Figure:
    """Loss and test accuracy against the step, a line a head; ``curves`` as in ``LiveRun``."""
    figure, (losses, accuracies) = _figure(9, 3.4)
    for name, curve in curves.items():
        colour, marker, line = STYLES[name]
        style = {"color": colour, "marker": marker, "linestyle": line, "label": name}
        losses.plot(curve["step"], curve["loss"], **style)
        accuracies.plot(curve["step"], [100 * value for value in curve["accuracy"]], **style)
    losses.set(xlabel="step", ylabel="loss", ylim=(0, None))
    accuracies.set(xlabel="step", ylabel="top-1, % of the test drawings", ylim=(0, 100))
    if curves:
        accuracies.legend(loc="upper left")
    return figure


def draw_threshold(scores: np.ndarray, same: np.ndarray, far_exponent: float = -3.0) -> Figure:
    """scores [p], same [p] bool: their histograms with the threshold that keeps the false accepts to 10^far_exponent,
    and the ROC with the point that it stands for."""
    if not -6 <= far_exponent <= 0:
        raise ValueError(f"far_exponent is {far_exponent}; it should be from -6 to 0")
    scores, same = np.asarray(scores, dtype=np.float64), np.asarray(same)
    far, tar = roc(scores, same)
    place = np.searchsorted(far, 10.0**far_exponent, side="right") - 1
    accepted = round(far[place] * (~same).sum()) + round(tar[place] * same.sum())
    threshold = -np.partition(-scores, accepted - 1)[accepted - 1] if accepted else 1.0  # the lowest score accepted
    figure, (left, right) = _figure(9.5, 3.4)
    for kind, name, colour, hatch in ((same, "same class", BLUE, ""), (~same, "different classes", RED, "///")):
        weights = np.full(int(kind.sum()), 100 / kind.sum())
        shape = {"histtype": "stepfilled", "color": colour, "alpha": 0.5, "hatch": hatch, "label": name}
        left.hist(scores[kind], BINS, weights=weights, **shape)
    left.axvline(threshold, color=GREEN, linestyle="--", label=f"threshold {threshold:.2f}")
    left.set(xlabel="cosine of a pair", ylabel="% of its kind")
    left.legend(loc="upper left", fontsize="small")
    turns = np.flatnonzero((far > 0) & ((np.diff(tar, prepend=-1) > 0) | (np.diff(tar, append=2) > 0)))
    right.plot(far[turns], 100 * tar[turns], color=BLUE)  # between its turns the curve is level
    right.plot(far[place], 100 * tar[place], color=GREEN, marker="D", markersize=9)
    right.set(xscale="log", xlabel="FAR: different pairs accepted", ylabel="TAR: same pairs accepted, %")
    right.set_title(f"TAR {tar[place]:.1%} at FAR {far[place]:.2g}", fontsize=SIZE)
    return figure


def draw_quality(looks: dict[str, dict[str, float]]) -> Figure:
    """What ``head.diagnose`` says of each selector: recall and captured mass beside the error of the gradient."""
    figure, (caught, missed) = _figure(9.5, 3.6)
    names, places = list(looks), np.arange(len(looks))
    for shift, key, label, colour, hatch in (
        (-0.2, "recall", "50 nearest classes recalled", BLUE, ""),
        (0.2, "captured_mass", "softmax mass captured", GREEN, "///"),
    ):
        values = [100 * looks[name][key] for name in names]
        caught.barh(places + shift, values, 0.38, color=colour, hatch=hatch, edgecolor="white", label=label)
    missed.barh(places, [100 * looks[name]["gradient_error"] for name in names], 0.5, color=RED)
    for axes, label in ((caught, "%, more is better"), (missed, "error of the gradient, %, less is better")):
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.set_xlabel(label)
    figure.legend(loc="outside upper left", ncols=2, fontsize="small")
    return figure


def grids(report: str) -> str:
    """The tables of a report in Markdown, without the sentences between and below them."""
    return "\n\n".join(block for block in report.split("\n\n") if block.startswith("|"))


def gap_table(cells: reports.Cells, rivals: Sequence[str], metrics: Sequence[str] = ("accuracy",)) -> str:
    """How far ``ann`` is above its rivals in runs of the same seeds, in points: Markdown, a line for each second label.

    cells: rows by (head, label). A star: told apart (``Gap.told_apart``); behind "±" the deviation of the differences.
    """
    columns = [(metric, rival) for metric in metrics for rival in rivals]
    titles = [rival if len(metrics) == 1 else f"{reports.METRICS[metric]}, {rival}" for metric, rival in columns]
    lines = []
    for label in dict.fromkeys(labels[1] for labels in cells if labels[0] == "ann"):
        found = (reports.paired_gap(cells["ann", label], cells.get((rival, label), []), m) for m, rival in columns)
        lines.append([label, *("" if gap is None else _signed(gap) for gap in found)])
    return reports.grid(["ann less", *titles], lines)


def _signed(gap: reports.Gap) -> str:
    return f"{gap.mean:+.1f} ± {gap.spread:.1f}{' *' if gap.told_apart else ''}"


def _figure(width: float, height: float):
    figure, axes = new_figure(width, height, columns=2, dpi=DPI)
    for one in axes:
        one.grid(alpha=0.3)
    return figure, axes


def equal_error_rate(far: np.ndarray, tar: np.ndarray) -> float:
    """far, tar [t], a ROC: where the false accepts and the false rejects are closest, their mean."""
    frr = 1 - tar
    place = np.abs(far - frr).argmin()
    return float(far[place] + frr[place]) / 2


def macro_accuracy(correct: np.ndarray, labels: np.ndarray) -> float:
    """correct [n] bool, labels [n]: the accuracy of each class that occurs, then their mean."""
    return float(np.mean([correct[labels == label].mean() for label in np.unique(labels)]))


def r_precision(relevant: np.ndarray) -> float:
    """relevant [n] bool, a whole ranking, best first, with R true entries: the share of true ones in its first R."""
    total = int(relevant.sum())
    return float(relevant[:total].mean())


_FAR, _TAR = np.array([0.0, 0.0, 0.1, 0.3, 1.0]), np.array([0.0, 0.6, 0.85, 0.95, 1.0])
EXERCISES = {
    "equal_error_rate": Exercise(
        equal_error_rate,
        [(_FAR, _TAR), (np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.5, 1.0]))],
        hint="the false reject rate is 1 - tar; np.abs and argmin find where two curves are closest",
    ),
    "macro_accuracy": Exercise(
        macro_accuracy,
        [
            (np.array([True, True, True, False]), np.array([7, 7, 7, 2])),
            (np.array([True, False, True]), np.array([0, 0, 1])),
            (np.array([True, False, False]), np.array([5_000_000, 3, 3])),
        ],
        hint="only classes that occur count, and class numbers may be large: np.unique",
    ),
    "r_precision": Exercise(
        r_precision,
        [(np.array([True, False, True, False]),), (np.array([False, True, True, False, True, False]),)],
        hint="R is how many are true in the whole ranking",
    ),
}
