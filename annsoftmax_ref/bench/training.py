"""``annsoftmax bench training``: whole steps of training a second, with the backbone and its data, head by head."""

from __future__ import annotations

import gc
import itertools
import math
import time
from collections.abc import Callable
from statistics import median

import torch

from annsoftmax_ref import RowSGD
from annsoftmax_ref.bench.heads import EXACT, MOMENTUM, make_step, own_options, rate_of
from annsoftmax_ref.bench.resnet import ResNet50
from annsoftmax_ref.bench.step import PATIENCE, weight_and_batches
from annsoftmax_ref.bench.stopwatch import Stopwatch, medians
from annsoftmax_ref.datasets import load_pairs
from annsoftmax_ref.experiments.reports import grid
from annsoftmax_ref.experiments.tasks import make_model
from annsoftmax_ref.machine.device import wait_for
from annsoftmax_ref.training import default_recipe
from annsoftmax_ref.training.network import seeded_weights

SIDE = 112  # pixels of a face crop
HEADS = ("full", "random", "random_dense", "forest", "ann")


class Drawings:
    """Pairs of characters, augmented, and the backbone of the tables (``tasks.make_model``)."""

    def __init__(self, classes: int, dim: int, seed: int, device: torch.device):
        self.data, self.device = load_pairs(classes), device
        self.augmentation = default_recipe().augmentation
        self.generator = torch.Generator().manual_seed(seed)
        self.model = make_model(self.data, dim, seed).to(device)
        self.optimizer = RowSGD(self.model.parameters(), lr=0.01, momentum=MOMENTUM, nesterov=True)

    def images(self, labels: torch.Tensor) -> torch.Tensor:
        """labels [B] -> the first drawing of each class [B, 1, h, w]."""
        samples = labels.cpu() * (len(self.data.train) // self.data.num_classes)
        return self.augmentation(self.data.train.batch(samples)[0], self.generator).to(self.device)


class Photographs:
    """Noise of the size of face crops [B, 3, 112, 112], which lies on the device, and a backbone of usual size,
    ``ResNet50``, in channels_last."""

    def __init__(self, classes: int, dim: int, seed: int, device: torch.device):
        with seeded_weights(seed):
            self.model = ResNet50(dim).to(device, memory_format=torch.channels_last)
        self.noise = torch.Generator(device).manual_seed(seed)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=MOMENTUM, fused=True)

    def images(self, labels: torch.Tensor) -> torch.Tensor:
        found = torch.empty(len(labels), 3, SIDE, SIDE, device=labels.device, memory_format=torch.channels_last)
        return found.normal_(generator=self.noise)


BACKBONES = {"small": Drawings, "resnet50": Photographs}


class TimedTraining:
    """Steps of training with any of ``bench.heads`` as the last layer; backbone: a key of ``BACKBONES``.

    The head scores embeddings that lie near their class among clustered rows, as after training, in place of the
    backbone's, which is not trained yet; its gradient of them goes back into the backbone. So the time is that of
    training, and nothing is said of accuracy.
    """

    def __init__(self, classes: int, dim: int, batch: int, half: bool, seed: int, device: torch.device, backbone: str):
        self.half, self.device = half, device
        self.weight, self.new_batch = weight_and_batches(classes, dim, batch, device, seed)
        self.backbone = BACKBONES[backbone](classes, dim, seed, device)

    def step(self, head, near: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
        """One step with ``head`` on embeddings near [B, d] of classes labels [B] -> milliseconds by stage."""
        watch = Stopwatch(self.device)
        with watch.time("data"):
            images = self.backbone.images(labels)
        with watch.time("backbone"), torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            embeddings = self.backbone.model(images)
        with watch.time("head"):
            slope = head(near, labels)
        with watch.time("backbone"):
            embeddings.backward(slope.to(embeddings.dtype))
            self.backbone.optimizer.step()
            self.backbone.optimizer.zero_grad()
        return watch.phases


def bench_training(
    classes: int,
    rates: list[float],
    heads: list[str],
    half: bool,
    rounds: int = 15,
    dim: int = 128,
    batch: int = 256,
    groups: int | None = None,
    seed: int = 0,
    device: torch.device | None = None,
    on_head: Callable[[str, float, float], None] | None = None,
    backbone: str = "small",
    **options,
) -> list[dict]:
    """One row for each rate and head: {"head", "classes", "rate", "groups", "backbone", "dim", "batch", "precision",
    "options", "rounds", "ms", "ms_median", "rebuilding_ms", "steps_per_second", "speedup_vs_full",
    "backbone_share", "phases_ms", "head_phases_ms"}.

    In each round the heads of a rate take a step in turn, on the same batch. ms: of a whole step, the median of the
    rounds with rebuilding_ms, what the head builds anew every so many steps (the forest), spread over these.
    backbone_share: of ms, the backbone with its data. groups: of every head that samples, but
    ``random_dense``; None: by the rule. on_head is called with a head, its rate, and the milliseconds of its second
    step.
    """
    training = TimedTraining(classes, dim, batch, half, seed, device or torch.device("cpu"), backbone)
    rows = []
    for rate in rates:
        steps, slow = {}, {}
        for name in heads:
            step = steps[name] = make_step(name, training.weight, rate, half, groups=groups, **options)
            training.step(step, *training.new_batch())
            start = time.perf_counter()
            training.step(step, *training.new_batch())
            wait_for(training.device)
            slow[name] = time.perf_counter() - start
            if on_head is not None:
                on_head(name, rate, slow[name] * 1e3)
        stages: dict[str, list[dict]] = {name: [] for name in heads}
        parts: dict[str, list[dict]] = {name: [] for name in heads}
        for round_ in range(rounds):
            batch_ = training.new_batch()
            for name, step in steps.items():
                if not round_ or slow[name] <= PATIENCE:
                    stages[name].append(training.step(step, *batch_))
                    parts[name].append(step.phases)
        own, of_rate = own_options(heads, options), []
        for name, found in stages.items():
            whole, rebuilding = median(sum(phases.values()) for phases in found), steps[name].rebuilding_ms
            by_stage = medians(found)
            of_rate.append(
                {
                    "head": name,
                    "classes": classes,
                    "rate": rate_of(name, rate),
                    "groups": groups,
                    "backbone": backbone,
                    "dim": dim,
                    "batch": batch,
                    "precision": "bf16" if half else "fp32",
                    "options": own[name],
                    "rounds": len(found),
                    "ms": whole + rebuilding,
                    "ms_median": whole,
                    "rebuilding_ms": rebuilding,
                    "steps_per_second": 1e3 / (whole + rebuilding),
                    "backbone_share": (by_stage["data"] + by_stage["backbone"]) / (whole + rebuilding),
                    "phases_ms": by_stage,
                    "head_phases_ms": medians(parts[name]),
                }
            )
        rows += [row | {"speedup_vs_full": _against_full(row, of_rate)} for row in of_rate]
        del steps, step
        gc.collect()
    return rows


def _against_full(row: dict, rows: list[dict]) -> float | None:
    """Against the fastest head that scores all classes."""
    exact = [full["ms"] for full in rows if full["head"] in EXACT]
    return min(exact) / row["ms"] if exact else None


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table, and what they say of ann at the most classes."""
    titles = ["classes", "head", "rate", "steps a second", "times faster than full", "ms a step"]
    titles += ["of it backbone and data", "head", "rebuilding"]
    lines = [
        [
            f"{r['classes']:,}",
            r["head"],
            f"{r['rate']:g}",
            f"{r['steps_per_second']:.1f}",
            f"{r['speedup_vs_full']:.1f}" if r["speedup_vs_full"] else "-",
            f"{r['ms']:.0f}",
            f"{r['backbone_share']:.0%}",
            f"{r['phases_ms']['head']:.1f}",
            f"{r['rebuilding_ms']:.1f}",
        ]
        for r in rows
    ]
    return "\n\n".join([grid(titles, lines), *filter(None, [finding(rows)])])


def finding(rows: list[dict]) -> str:
    """How many times faster ann trains than full, end to end, at the most classes, and from how many on it is faster;
    "" if one of them is not there."""
    most = max(row["classes"] for row in rows)
    ours = [row for row in rows if row["head"] == "ann" and row["classes"] == most and row["speedup_vs_full"]]
    if not ours:
        return ""
    times = " and ".join(f"{row['speedup_vs_full']:.1f} times at a rate of {row['rate']:g}" for row in ours)
    crossings = {row["rate"]: crossover(rows, row["rate"]) for row in ours}
    since = "".join(f" At a rate of {rate:g} the two cross at about {n:,.0f}." for rate, n in crossings.items() if n)
    return f"End to end, at {most:,} classes, ann trains faster than full by {times}.{since}"


def crossover(rows: list[dict], rate: float) -> float | None:
    """The number of classes at which a step with ann takes as long as one with full, between the two measured around it
    (a straight line in logarithms); None if one of them is faster throughout."""
    ours = [row for row in rows if row["head"] == "ann" and row["rate"] == rate and row["speedup_vs_full"]]
    points = sorted((math.log(row["classes"]), math.log(row["speedup_vs_full"])) for row in ours)
    for (few, behind), (many, ahead) in itertools.pairwise(points):
        if behind < 0 <= ahead:
            return math.exp(few + (many - few) * behind / (behind - ahead))
    return None
