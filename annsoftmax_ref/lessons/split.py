"""The pictures and the exercises of notebook 17: classes split over processes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from annsoftmax_ref.experiments.figures import new_figure
from annsoftmax_ref.lessons import pictures
from annsoftmax_ref.lessons.exercises import Exercise
from annsoftmax_ref.lessons.svg import BLUE, GREEN, ORANGE, SMALL, WIDTH, bold, box, drawing, line, text

HEADER = 7 * 8  # bytes that each process says of its batch before it is scored

# What becomes of a batch, from top to bottom: (across, first line, second line); across: all processes take part.
STEP = (
    (False, "its samples", "[b, d]"),
    (True, "all-gather", "features [B, d] and labels [B]: everybody has the whole batch"),
    (False, "logits of its classes", "[B, n]"),
    (True, "all-reduce", "of each sample the largest logit, the sum of exponentials, its own class's logit"),
    (False, "gradient of its rows", "[n, d], stays here"),
    (True, "reduce-scatter", "gradients of features [B, d]: each has the sum for its own samples"),
    (False, "gradient of its samples", "[b, d], to the backbone"),
)


def draw_step(ranks: int = 3) -> str:
    """SVG of a step: what each process does by itself, and where all of them talk to each other."""
    left, wide, top = 10, (WIDTH - 20) / ranks, 30
    body = [bold(left + wide * (r + 0.5), 18, f"process {r}", at="middle") for r in range(ranks)]
    for across, first, second in STEP:
        if across:
            body.append(box(left, top, WIDTH - 20, 28, fill=BLUE, wide=0.5))
            body.append(text(WIDTH / 2, top + 18, f"{first}: {second}", colour="#fff", at="middle"))
        else:
            for r in range(ranks):
                x = left + wide * r
                body.append(box(x + 12, top, wide - 24, 42, line=GREEN, wide=1.5))
                body.append(text(x + wide / 2, top + 18, first, at="middle"))
                body.append(text(x + wide / 2, top + 34, second, at="middle", size=SMALL))
        tall = 28 if across else 42
        if first != STEP[-1][1]:
            middles = [left + wide * (r + 0.5) for r in range(ranks)]
            body += [line(middle, top + tall, middle, top + tall + 14) for middle in middles]
        top += tall + 14
    return drawing(top, body, f"A step of {ranks} processes: " + "; ".join(f"{a}, {b}" for _, a, b in STEP))


def bytes_of_step(ranks: int, batch: int, dim: int, feature_bytes: int = 4) -> dict[str, int]:
    """What each process receives in a step over all its classes, by a ring, by the names of ``Shards.received``; batch
    is that of all processes together, which have equal parts of it."""
    others = ranks - 1
    return {
        "header": others * HEADER,
        "features": others * (batch // ranks) * dim * feature_bytes,
        "labels": others * (batch // ranks) * 8,
        "softmax": 3 * (2 * others * batch * 4 // ranks),
        "gradient": others * (batch // ranks) * dim * 4,
    }


def draw_received(ranks: int = 4, batch: int = 1024, dim: int = 128, classes: int = 1_000_000) -> str:
    """SVG: bytes that each process receives in a step, and what two other ways to split would take, in blue and orange;
    the scale is logarithmic."""
    ours = bytes_of_step(ranks, batch, dim)
    counts = {
        "features and labels": ours["features"] + ours["labels"] + ours["header"],
        "softmax": ours["softmax"],
        "gradient": ours["gradient"],
        "if all logits were sent": (ranks - 1) * batch * classes * 4 // ranks,
        "if all had all rows": 2 * (ranks - 1) * classes * dim * 4 // ranks,
    }
    left, decade, down = 180, 46, 28
    body = [bold(0, 16, "received by each process in a step")]
    for power, name in ((3, "1 kB"), (6, "1 MB"), (9, "1 GB"), (12, "1 TB")):
        x = left + (power - 3) * decade
        body += [line(x, 40, x, 46 + down * len(counts)), text(x, 36, name, size=SMALL, at="middle")]
    for k, (name, count) in enumerate(counts.items()):
        top, wide = 46 + down * k, max(1.0, (np.log10(count) - 3) * decade)
        colour = ORANGE if name.startswith("if ") else BLUE
        body += [text(0, top + 15, name), box(left, top, wide, 20, fill=colour, wide=0.5)]
        body.append(text(WIDTH, top + 15, _in_words(count), at="end"))
    said = ", ".join(f"{name} {_in_words(count)}" for name, count in counts.items())
    return drawing(52 + down * len(counts), body, f"Received by each process in a step: {said}")


def _in_words(count: int) -> str:
    """Bytes: "393 kB"."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


def draw_mass(ways: dict[str, Sequence[float]], ranks: Sequence[int]) -> Figure:
    """Captured mass by the number of processes; ways: of each name one number for each of ``ranks``."""
    figure, axes = new_figure(6.4, 3.4, dpi=pictures.DPI)
    for (name, values), (colour, marker, style) in zip(ways.items(), pictures.SERIES, strict=False):
        axes.plot(ranks, values, color=colour, marker=marker, linestyle=style, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(one) for one in ranks])
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    axes.set_xlabel("processes", fontsize=pictures.SIZE)
    axes.set_ylabel("captured mass", fontsize=pictures.SIZE)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=pictures.SIZE, loc="lower left")
    return figure


# --- exercises ---------------------------------------------------------------------------------------------


def gloo_maximum(parts: np.ndarray) -> np.ndarray:
    """parts [P, B], a row a process -> the largest of each column as gloo's MAX finds it: a NaN of process 1 or a later
    one is lost."""
    largest = parts[0].copy()
    for part in parts[1:]:
        largest = np.where(part > largest, part, largest)
    return largest


def log_sum(parts: np.ndarray) -> np.ndarray:
    """log of the sum over processes of e^parts [P, B]."""
    largest = gloo_maximum(parts)
    base = np.where(np.isfinite(largest), largest, 0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(parts - base).sum(axis=0)) + base


def owner_and_row(label: int, num_classes: int, ranks: int) -> tuple[int, int]:
    """Which process has the class, and in which of its rows."""
    return divmod(label, -(-num_classes // ranks))


def loss_factor(sizes: Sequence[int], rank: int, over_all: bool) -> float:
    """What DDP's average makes necessary: P, or P b / B where the loss is the mean over a process's own samples."""
    return float(len(sizes)) if over_all else len(sizes) * sizes[rank] / sum(sizes)


def decide(said: np.ndarray, rank: int) -> tuple[str, int]:
    """said [P, 2]: of each process, whether its batch has an error, and whether it was told to stop."""
    for column, word in enumerate(("raise", "stop")):
        if said[:, column].any():
            return word, int(said[:, column].argmax())
    return "go on", -1


_NAN, _INF = np.nan, np.inf
EXERCISES = {
    "owner_and_row": Exercise(
        owner_and_row,
        [(0, 10, 4), (9, 10, 4), (5, 10, 4), (4, 5, 4), (8, 9, 4), (299_999_999, 300_000_000, 256)],
        hint="Every process but the last ones has ceil(N / P) classes, which is -(-N // P) in whole numbers.",
    ),
    "log_sum": Exercise(
        log_sum,
        [
            (np.array([[0.0, 1.0], [2.0, -1.0]]),),
            (np.array([[900.0], [901.0], [-900.0]]),),
            (np.array([[-_INF, 3.0], [-_INF, -_INF]]),),  # nobody has a class: e^-inf is 0, and log 0 is -inf
            (np.array([[1.0, 2.0], [_NAN, 0.0]]),),
            (np.array([[_NAN, 2.0], [1.0, 0.0]]),),
        ],
        hint="A NaN must come out as NaN whoever has it. The maximum may lose it, and a sum cannot. Only a finite "
        "maximum may be subtracted.",
    ),
    "bytes_of_step": Exercise(
        lambda ranks, batch, dim: sum(bytes_of_step(ranks, batch, dim).values()),
        [(1, 64, 8), (2, 64, 8), (3, 12, 128), (4, 1024, 128), (256, 16384, 512)],
        hint="Each of the P - 1 others sends its part of B / P samples; an all-reduce of n bytes is 2 (P - 1) / P n.",
    ),
    "loss_factor": Exercise(
        loss_factor,
        [((4, 4), 0, True), ((4, 4), 1, False), ((5, 7, 0), 0, False), ((5, 7, 0), 2, False), ((5, 7, 0), 1, True)],
        hint="DDP's gradient is the sum over processes, divided by P. Each sample's part in it should be 1 / B.",
    ),
    "decide": Exercise(
        decide,
        [
            (np.array([[0, 0], [0, 0]]), 0),
            (np.array([[0, 0], [1, 0]]), 0),
            (np.array([[0, 0], [1, 0]]), 1),
            (np.array([[0, 1], [0, 0], [1, 0]]), 0),  # an error comes before a stop
            (np.array([[0, 0], [0, 1], [0, 0]]), 2),
            (np.array([[0, 0], [0, 1], [0, 0]]), 1),
        ],
        hint="What only one process knows may not decide what it does: give the same answer for every rank.",
    ),
}
