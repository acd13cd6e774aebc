"""`make demo` ends in what it saw, computed from its records."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GROWN = [
    {"head": head, "classes": size, "ms_median": ms, "rate": 0.1}
    for head, times in (("full", (10, 100)), ("ann", (20, 50)))
    for size, ms in zip((5_000, 50_000), times, strict=True)
]


def compared(**accuracies):
    return [
        {"head": head, "seed": 0, "num_classes": 5204, "accuracy": value, "metrics": {"accuracy": value}}
        for head, value in accuracies.items()
    ]


def said(folder, rows, grown=GROWN):
    for name, found in (("compare", rows), ("growth", grown)):
        (folder / f"{name}.json").write_text(json.dumps({"rows": found}))
    run = subprocess.run(
        [sys.executable, "tools/demo.py", str(folder)], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


@pytest.mark.parametrize(
    "ann, words", [(0.88, "ann is 1.0 behind full, 8.0 ahead of random"), (0.9, "ann is 1.0 ahead of full, 10.0 ahead")]
)
def test_it_says_a_sentence_each_whichever_way_it_went(ann, words, tmp_path):
    accuracy, growth, pictures = said(tmp_path, compared(full=0.89, random=0.8, ann=ann))
    assert accuracy.startswith(f"demo: accuracy, 5,204 classes: full 89.0 %, random 80.0 %, ann {100 * ann:.1f} %; ")
    assert words in accuracy
    assert re.search(r"full 10\.0, 100\.0 ms .* ann 20\.0, 50\.0 ms .* from about 16,000 on", growth)
    assert f"{tmp_path}/compare.png and {tmp_path}/growth.png" in pictures


def test_without_ann_it_compares_nothing(tmp_path):
    assert said(tmp_path, compared(full=0.89))[0] == "demo: accuracy, 5,204 classes: full 89.0 %."


def test_make_demo_writes_what_it_reads():
    made = subprocess.run(
        ["make", "-n", "--no-print-directory", "demo"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    for name in ("compare.json", "compare.png", "growth.json", "growth.png"):
        assert f"results/demo/{name}" in made
    assert made.rstrip().endswith("tools/demo.py results/demo")
