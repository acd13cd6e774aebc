"""What `make demo` saw, a sentence each, from its two records: `python tools/demo.py results/demo`."""

from __future__ import annotations

import sys
from pathlib import Path

from annsoftmax_ref.bench import growth
from annsoftmax_ref.experiments.records import read_record
from annsoftmax_ref.experiments.reports import gaps, headline_title, percent


def seen(compared: list[dict], grown: list[dict], folder: str) -> list[str]:
    """Sentences on rows of ``compare`` (a single objective) and of ``bench growth``, and where their pictures are."""
    heads: dict[tuple[str], list[dict]] = {}
    for row in compared:
        heads.setdefault((row["head"],), []).append(row)
    reached = ", ".join(f"{head} {percent('accuracy', ' %')(rows)}" for (head,), rows in heads.items())
    first, against = compared[0], gaps(heads, "accuracy", rivals=("full", "random"))
    return [
        f"{headline_title(first)}, {first['num_classes']:,} classes: {reached}" + (f"; {against}" if against else "."),
        growth.finding(grown),
        f"the pictures are {folder}/compare.png and {folder}/growth.png, the numbers are in the .json beside them.",
    ]


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    compared, grown = (read_record(Path(sys.argv[1]) / f"{name}.json")["rows"] for name in ("compare", "growth"))
    for sentence in seen(compared, grown, sys.argv[1]):
        print(f"demo: {sentence}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
