"""Fill the README's tables from the records in results/: `python tools/readme.py write` (or `check`).

A table stands between `<!-- table NAME -->` and `<!-- end -->`; NAME is a key of TABLES.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from statistics import mean, stdev

from annsoftmax_ref import compare
from annsoftmax_ref.bench import search, step
from annsoftmax_ref.records import read_record

ROOT = Path(__file__).resolve().parent.parent
OBJECTIVES = ("cross_entropy", "cosface", "arcface", "dsoftmax")


def compare_table() -> str:
    records = [read_record(ROOT / "results" / "compare" / f"{name}.json") for name in OBJECTIVES]
    rows = [row for record in records for row in record["rows"]]
    return compare.table(rows) + "\n\n" + source(records[0], "results/compare/")


def search_table() -> str:
    record = read_record(ROOT / "results" / "search" / "glyphs.json")
    return f"{search.table(record['rows'])}\n\n{record['vectors']}. {source(record, 'results/search/glyphs.json')}"


def steps_table() -> str:
    names = (
        "step_1m_bf16",
        "step_1m_groups8",
        "step_1m_fp32",
        "step_1m_001",
        "step_1m_001_groups8",
        "step_200k_512",
        "step_100k_chunked",
    )
    records = [read_record(ROOT / "results" / "cpu" / f"{name}.json") for name in names]
    rows = [row for record in records for row in record["rows"]]
    growth = read_record(ROOT / "results" / "cpu" / "growth.json")
    times = ", ".join(f"{row['classes']:,} classes {row['ms_median']:.1f} ms" for row in growth["rows"])
    return (
        f"{step.table(rows)}\n\n{source(records[0], 'results/cpu/')}\n\n"
        f"Growth with {growth['rows'][0]['classes'] * growth['rows'][0]['rate']:,.0f} active classes and "
        f"{growth['rows'][0]['nearest']['nprobe']} lists probed: {times}, which is the number of classes to the power "
        f"{growth['exponent']:.2f} (`results/cpu/growth.json`)."
    )


def large_search_table() -> str:
    record = read_record(ROOT / "results" / "cpu" / "search_1m.json")
    rows = search.cheapest(record["rows"], 0.9)
    for kind in search.FaissIndex.KINDS:
        if not any(kind in row["index"] for row in rows):  # never reaches the recall: its best
            rows.append(max((r for r in record["rows"] if kind in r["index"]), key=lambda r: r["recall"]))
    return f"{search.table(rows)}\n\n{record['vectors']}. {source(record, 'results/cpu/search_1m.json')}"


def backends_table() -> str:
    """Mean accuracy of every head with the C++ kernels and in plain torch, same seeds."""
    lines = ["| objective | head | C++ kernels | plain torch |", "|---|---|---|---|"]
    for path in sorted((ROOT / "results" / "compare" / "cpp").glob("*.json")):
        pair = [read_record(folder / path.name)["rows"] for folder in (path.parent, path.parent.parent)]
        for head in ("full", "random", "ann"):
            accuracy = [[100 * row["accuracy"] for row in rows if row["head"] == head] for rows in pair]
            cells = [f"{mean(values):.1f}% ± {stdev(values):.1f}" for values in accuracy]
            lines.append(f"| {path.stem} | {head} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n\n*Records in `results/compare/cpp/` and `results/compare/`.*"


TABLES = {
    "backends": backends_table,
    "compare": compare_table,
    "search": search_table,
    "steps": steps_table,
    "large_search": large_search_table,
}


def source(record: dict, path: str) -> str:
    """Where the numbers come from: machine, versions, date, command."""
    machine = record["environment"]
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    place = f"{machine['gpu'] or machine['cpu']}, {threads}"
    return f"*{place}, torch {machine['torch']}, {machine['date']}; `{record['command']}`; records in `{path}`.*"


def filled(text: str) -> str:
    def fill(match: re.Match) -> str:
        return f"<!-- table {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text()
    if sys.argv[1:] == ["write"]:
        readme.write_text(filled(text))
        return 0
    if sys.argv[1:] == ["check"]:
        if filled(text) != text:
            print("README.md: a table differs from its record in results/; run: python tools/readme.py write")
            return 1
        return 0
    print(__doc__)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
