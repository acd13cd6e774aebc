"""The next word: classes whose frequencies follow Zipf's law, and what corrections for them are worth."""

from __future__ import annotations

from annsoftmax_ref.experiments.reports import HOW_TOLD, Cells, gaps, held, listing, percent, plain
from annsoftmax_ref.experiments.settings import seeded

# Learning rate (of 0.8, 1.6 and 3.2) and scale (of 16 and the recipe's 20) were chosen for full softmax, with seed 0
# and 600 steps. A thousand steps are a little more than half a pass over the text.
WORDS = {"task": "words", "objective": "cross_entropy", "lr": 1.6, "steps": 1000, "epochs": 1}
RATE = 0.1
HEADS = {  # by their names in the table: the head, the share of the classes, and its selector's options
    "full": ("full", RATE, {}),
    "random": ("random", RATE, {}),
    "random, log-q": ("logq", RATE, {"power": 0.0}),
    "by frequency, log-q": ("logq", RATE, {}),
    "forest": ("forest", RATE, {}),
    "ann, priority": ("ann", RATE, {"priority": True}),
    "ann": ("ann", RATE, {}),
    "ann, three tenths": ("ann", 0.3, {}),
}
COLUMNS = {
    "top-1, %": percent("accuracy"),
    "top-10, %": percent("top10"),
    "perplexity": plain("perplexity"),
    "frequent, top-1": percent("head"),
    "middle": percent("middle"),
    "rare": percent("tail"),
}


def language_cells() -> dict:
    return {
        (name,): seeded(head=head, rate=rate, options=options, **WORDS) for name, (head, rate, options) in HEADS.items()
    }


def report_language(cells: Cells) -> str:
    told = [
        gaps(cells, "accuracy"),
        *(held(cells, name, "accuracy") for name in HEADS if name.startswith("ann")),
        texts(cells),
    ]
    return "\n\n".join([listing(cells, COLUMNS, "head"), *filter(None, told), HOW_TOLD])


def texts(cells: Cells) -> str:
    """Which versions' documentation the words are of, for they change with it."""
    rows = [row for found in cells.values() for row in found]
    made = {(row["num_classes"], row["environment"]["python"], row["environment"]["numpy"]) for row in rows}
    return " ".join(f"{n:,} words, of Python {python}'s and NumPy {numpy}'s." for n, python, numpy in sorted(made))
