"""Compare heads: the same network, data, recipe and seeds, and other classes that a batch is scored against."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import mean, stdev

import torch

from annsoftmax_ref import memory
from annsoftmax_ref.datasets import load_fonts, load_glyphs, load_image_folder, load_pairs
from annsoftmax_ref.head import DEFAULT_HEADS, make_head
from annsoftmax_ref.network import ConvNet
from annsoftmax_ref.training import History, default_recipe, fit

EMBEDDING_SIZE = 128
DIAGNOSE_EVERY = 100  # steps; each look costs about one step of the full softmax and is not in the times


def load_task(task: str):
    """``glyphs``, ``pairs:NUMBER_OF_CLASSES``, ``fonts:FOLDER`` or ``folder:PATH`` (a folder of images a class)
    -> a data set (``annsoftmax_ref.datasets``)."""
    name, _, detail = task.partition(":")
    if name == "glyphs" and not detail:
        return load_glyphs()
    if name == "pairs" and (not detail or detail.isdecimal()):
        return load_pairs(int(detail or 100_000))
    if name == "fonts" and detail:
        return load_fonts(detail)
    if name == "folder" and detail:
        return load_image_folder(detail)
    raise ValueError(f"task is {task!r}; it should be glyphs, pairs:NUMBER_OF_CLASSES, fonts:FOLDER or folder:PATH")


def find_device(name: str) -> torch.device:
    """``auto`` is the GPU if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and not (name.split(":")[0] == "cuda" and torch.cuda.is_available()):
        raise ValueError(f"device is {name!r}; it should be auto or cpu, or cuda where torch can use a GPU")
    return torch.device(name)


def compare(
    task: str = "glyphs",
    heads=DEFAULT_HEADS,
    objective: str = "cosface",
    rate: float = 0.1,
    groups: int = 8,
    epochs: int | None = None,
    seeds=(0,),
    device: str = "auto",
    progress: bool = True,
    on_row: Callable[[dict], None] | None = None,
    on_epoch: Callable[[str, History], None] | None = None,
) -> list[dict]:
    """Train every head with every seed; one row each, as DESIGN.md gives them, with the history of its epochs.

    accuracy, recall and captured_mass are fractions; recall and captured_mass are means over training, one look
    every ``DIAGNOSE_EVERY`` steps. What does not apply to a head is None. on_row is called with each new row, on_epoch
    with a head's name and its history so far.
    """
    place = find_device(device)
    recipe = default_recipe(objective)
    for head in heads:  # a wrong name or rate is told before anything is trained
        make_head(head, 2, 2, objective, rate, groups)
    data = load_task(task)
    rows = []
    for seed in seeds:
        for name in heads:
            model = ConvNet(EMBEDDING_SIZE, seed=seed).to(place)
            head = make_head(name, data.num_classes, EMBEDDING_SIZE, recipe.make_objective(), rate, groups, seed)
            with memory.peak_memory(place) as peak:
                history = fit(
                    model,
                    head.to(place),
                    data,
                    recipe,
                    epochs=epochs,
                    seed=seed,
                    progress=progress,
                    diagnose_every=DIAGNOSE_EVERY,
                    on_epoch=on_epoch and partial(on_epoch, name),
                )
            sampled = name != "full"
            rows.append(
                {
                    "head": name,
                    "objective": objective,
                    "rate": rate if sampled else 1.0,
                    "groups": groups if name == "ann" else None,
                    "seed": seed,
                    "epochs": len(history.epochs),
                    "num_classes": data.num_classes,
                    "accuracy": history.accuracy,
                    "loss": history.epochs[-1].loss,
                    "seconds": history.epochs[-1].seconds,
                    "head_ms": mean(e.head_ms for e in history.epochs),
                    "captured_mass": _mean_of(history, "captured_mass"),
                    "recall": _mean_of(history, "recall"),
                    "peak_mb": peak["peak_mb"],
                    "task": task,
                    "history": history.to_dict()["epochs"],
                }
            )
            if on_row is not None:
                on_row(rows[-1])
    return rows


def _mean_of(history: History, name: str) -> float | None:
    return mean(d[name] for d in history.diagnostics) if history.diagnostics else None


COLUMNS = [
    ("accuracy", "accuracy", lambda v: f"{v:.1%}"),
    ("loss", "loss", lambda v: f"{v:.2f}"),
    ("captured_mass", "mass", lambda v: f"{v:.0%}"),
    ("recall", "recall", lambda v: f"{v:.0%}"),
    ("seconds", "seconds", lambda v: f"{v:.0f}"),
    ("head_ms", "head ms/step", lambda v: f"{v:.1f}"),
    ("peak_mb", "peak MB", lambda v: f"{v:.0f}"),
]


def table(rows: list[dict]) -> str:
    """Rows as a Markdown table, means over seeds, with a sentence for each objective on what it shows."""
    titles = ["objective", "head", "classes scored", "seeds", *(title for _, title, _ in COLUMNS)]
    lines = []
    for (objective, head), group in _grouped(rows).items():
        cells = [objective, head, f"{group[0]['rate']:.0%}", str(len(group))]
        for field, _, form in COLUMNS:
            values = [row[field] for row in group if row[field] is not None]
            cell = form(mean(values)) if values else "-"
            if field == "accuracy" and len(values) > 1:
                cell += f" ± {100 * stdev(values):.1f}"
            cells.append(cell)
        lines.append(cells)
    widths = [max(len(line[i]) for line in [titles, *lines]) for i in range(len(titles))]
    form = "| " + " | ".join(f"{{:<{w}}}" for w in widths) + " |"
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([form.format(*titles), rule, *(form.format(*line) for line in lines), "", *findings(rows)])


def findings(rows: list[dict]) -> list[str]:
    """How ann stands to full and to random, a sentence each, whichever way it went."""
    accuracy = {key: 100 * mean(row["accuracy"] for row in group) for key, group in _grouped(rows).items()}
    sentences = []
    for objective in dict.fromkeys(row["objective"] for row in rows):
        ann = accuracy.get((objective, "ann"))
        for other in ("full", "random"):
            against = accuracy.get((objective, other))
            if ann is not None and against is not None:
                word = "ahead of" if ann >= against else "behind"
                sentences.append(f"{objective}: ann is {abs(ann - against):.1f} points {word} {other}.")
    return sentences


def _grouped(rows: list[dict]) -> dict[tuple[str, str], list[dict]]:
    groups: dict = {}
    for row in rows:
        groups.setdefault((row["objective"], row["head"]), []).append(row)
    return groups
