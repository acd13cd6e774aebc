"""Fill the README's tables from the records in results/: `python tools/readme.py write` (or `check`).

A table stands between `<!-- table NAME -->` and `<!-- end -->`; NAME is a key of TABLES.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from annsoftmax_ref import compare
from annsoftmax_ref.bench import search
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


TABLES = {"compare": compare_table, "search": search_table}


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
