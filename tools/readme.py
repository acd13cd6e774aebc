"""Fill the tables of the documents from the records in results/: `python tools/readme.py write` (or `check`).

A table stands between `<!-- table NAME -->` and `<!-- end -->`; NAME is a key of TABLES.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from annsoftmax_ref.bench import changes, cluster, growth, predict, ranks, search, searches, step, training
from annsoftmax_ref.commands import plan_ranks
from annsoftmax_ref.experiments import reports, runs, tables
from annsoftmax_ref.experiments.records import read_record
from annsoftmax_ref.experiments.settings import OBJECTIVES, STORE
from annsoftmax_ref.planning.cluster import Cluster, plan_of_cluster
from annsoftmax_ref.planning.memory import Training

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "results" / "README.md", ROOT / "results" / "tables" / "README.md")
GLANCE = 0.02  # the share of the classes in the README's own table


def runs_table(name: str) -> str:
    """One of ``annsoftmax table``, from the store of runs."""
    table, store = tables.TABLES[name], runs.Store(ROOT / STORE)
    rows = [store.rows[run] for run in table.runs if run in store.rows]
    places = sorted({place(row["environment"]) for row in rows})
    return f"{table.render(store)}\n\n*{'; '.join(places)}; `annsoftmax table {name}`; records in `{STORE}`.*"


def glance_table() -> str:
    """Four heads, all but full with groups by the same rule: accuracy, and what a step costs."""
    store = runs.Store(ROOT / STORE)
    found = tables.TABLES["searches"].found(store)
    record = read_record(ROOT / "results" / "cpu" / "searches.json")
    ms = {
        (row["head"], row["classes"]): row["ms"]
        for row in record["rows"]
        if row["rate"] == GLANCE and row["by_rule"] == (row["head"] != "full")
    }
    most = max(classes for _, classes in ms)
    lines = []
    for head, what in GLANCED.items():
        cell = found["full" if head == "full" else f"{head}, groups", "pairs, 1/50"]
        costs = (f"{ms[head, classes]:.0f}" for classes in (20_000, most))
        lines.append([f"`{head}`, {what}", reports.percent("accuracy")(cell), *costs])
    titles = ["head", "top-1 on 20,000 classes, %", "ms a step there", f"ms a step at {most:,} classes"]
    scored = (
        f"A fiftieth of the classes scored but by `full`; groups by one rule, a single one at {most:,}. {HOW_MEASURED}"
    )
    return f"{reports.grid(titles, lines)}\n\n*{scored} {place(record['environment'])}.*"


GLANCED = {"full": "all classes", "random": "random classes", "forest": "Selective Softmax", "ann": "ANN Softmax"}
HOW_MEASURED = "Accuracy: three seeds or five (`annsoftmax table searches`); times: `annsoftmax bench searches`,"


def record_table(name: str, table: Callable[[list[dict]], str]) -> str:
    """The rows of one record, results/NAME.json, as the module that measured them tells them."""
    record = read_record(ROOT / "results" / f"{name}.json")
    of = f"{record['vectors']}. " if "vectors" in record else ""
    return f"{table(record['rows'])}\n\n{of}{source(record, f'results/{name}.json')}"


def steps_table() -> str:
    names = (
        "step_1m_bf16",
        "step_1m_captured",
        "step_1m_weighted",
        "step_1m_groups8",
        "step_1m_fp32",
        "step_1m_001",
        "step_1m_001_groups8",
        "step_200k_512",
        "step_100k_chunked",
        "step_5m",
        "step_5k",
        "step_5k_busy",
        "step_100k_busy",
    )
    records = [read_record(ROOT / "results" / "cpu" / f"{name}.json") for name in names]
    rows = [row for record in records for row in record["rows"]]
    grown = read_record(ROOT / "results" / "cpu" / "growth.json")["rows"]
    times = ", ".join(f"{row['classes']:,} classes {row['ms_median']:.1f} ms" for row in grown)
    return (
        f"{step.table(rows)}\n\n*{sources(records)}; commands in the records, `results/cpu/step_*.json`.*\n\n"
        f"Growth with {grown[0]['classes'] * grown[0]['rate']:,.0f} active classes and "
        f"{grown[0]['nearest']['nprobe']} lists probed: {times}, which is the number of classes to the power "
        f"{growth.exponent(grown):.2f} (`results/cpu/growth.json`)."
    )


def reported_table() -> str:
    """What users of random sampling report (issues of InsightFace), and what was measured here, a line each."""
    store = runs.Store(ROOT / STORE)
    embedding, rates = (tables.TABLES[name].found(store) for name in ("embedding", "rates"))
    lost = {head: _lost(embedding, head, "map") for head in ("random", "ann")}
    near = {head: rates[head, "1/50"] for head in ("random", "ann")}
    ahead = reports.gaps({(head,): rows for head, rows in near.items()}, "accuracy")
    mass = {head: reports.percent("captured_mass", " %")(rows) for head, rows in near.items()}
    steps = read_record(ROOT / "results" / "cpu" / "million.json")["rows"]
    faster = ", ".join(
        f"`{row['head']}` {row['speedup_vs_full']:.1f}"
        for row in steps
        if (row["classes"], row["rate"]) == (600_000, 0.1) and row["head"] in ("random_dense", "random", "ann")
    )
    issue = "https://github.com/deepinsight/insightface/issues/"
    return (
        f"- 0.05 of mAP lost at a rate of 0.2 with a million identities ([#1606]({issue}1606)): here, on characters "
        f"never seen and at a tenth of 4,163 classes, `random` is {lost['random']} points of mAP behind full softmax, "
        f"`ann` {lost['ann']}, depending on the objective.\n"
        f"- No gain in speed at 600,000 classes ([#1622]({issue}1622)): whole training steps at a tenth of them are so "
        f"many times faster than full softmax's: {faster} (`random_dense` with PartialFC's dense gradient).\n"
        f"- Hard negatives wished for ([#2770]({issue}2770)): `ann` scores against those; at 1/50 of 20,000 pairs its "
        f"classes hold {mass['ann']} of the softmax's mass, random ones {mass['random']}; in accuracy {ahead}"
    )


def _lost(cells: reports.Cells, head: str, metric: str) -> str:
    """By how many points a head is behind full softmax, from the objective with the least to that with the most."""
    found = [reports.paired_gap(cells["full", kind], cells[head, kind], metric) for kind in OBJECTIVES]
    points = sorted(round(gap.mean, 1) + 0.0 for gap in found if gap is not None)
    return f"{points[0]:.1f} to {points[-1]:.1f}" if points else "-"


def planned_text() -> str:
    """The plan of the simulated cluster, and how near the memory model was where a head was made."""
    record, made = (
        read_record(ROOT / "results" / name) for name in ("cluster/simulated_256.json", "cpu/capacity.json")
    )
    job, (row,) = Training(**record["job"]), made["rows"]
    plan = plan_ranks.report_of_cluster(plan_of_cluster(job, Cluster(record["ranks"], "h100-80gb")))
    return (
        f"{plan}\n\nThe memory model, where a head of {row['classes']:,} x {row['dim']} was made: "
        f"{row['planned'] / 1e9:.3f} GB planned, {row['taken'] / 1e9:.3f} taken. "
        f"{source(made, 'results/cpu/capacity.json')}"
    )


def simulated_table() -> str:
    record = read_record(ROOT / "results" / "cluster" / "simulated_256.json")
    took = f"{record['ranks']} processes in {record['seconds']:.0f} s, {record['peak_mb']:.0f} MB at most."
    return f"{cluster.table(record['rows'])}\n\n{took} {source(record, 'results/cluster/simulated_256.json')}"


def killed_text() -> str:
    """What a run of which processes were killed again and again came to."""
    record = read_record(ROOT / "results" / "cluster" / "kill_test.json")
    (row,) = record["rows"]
    found = row["compared"]
    each = "; ".join(
        f"{what} {digits(found[what]['whole'])} and {digits(found[what]['moved'])}, other seeds "
        f"{', '.join(map(digits, found[what]['others']))}"
        for what, digits in (("loss", "{:.3f}".format), ("accuracy", "{:.2%}".format), ("top5", "{:.2%}".format))
    )
    return (
        f"`{row['task']}`, {row['steps']} steps on {row['ranks']} processes: after {len(row['kills'])} kills all "
        f"{row['equal_tensors']} tensors of the last checkpoint are those of the run that nobody disturbed, bit for "
        f"bit. Killed at a random step and gone on with from step {row['newest_step']} on {row['then_ranks']} "
        f"processes (undisturbed, and so): {each}. {source(record, 'results/cluster/kill_test.json')}"
    )


TABLES = {
    **{name: partial(runs_table, name) for name in tables.TABLES},
    "glance": glance_table,
    "search": partial(record_table, "search/glyphs", search.table),
    "steps": steps_table,
    "large_search": partial(record_table, "cpu/search_1m", search.curves_table),
    "predict": partial(record_table, "cpu/predict_1m", predict.table),
    "changes": partial(record_table, "cpu/class_changes", changes.table),
    "million": partial(record_table, "cpu/million", training.table),
    "costs": partial(record_table, "cpu/searches", searches.table),
    "reported": reported_table,
    "planned": planned_text,
    "simulated": simulated_table,
    "ranks": partial(record_table, "cpu/ranks_1m", ranks.table),
    "killed": killed_text,
}


def source(record: dict, path: str) -> str:
    """Where the numbers come from: machine, versions, date, command."""
    return f"*{place(record['environment'])}; `{record['command']}`; records in `{path}`.*"


def sources(records: list[dict]) -> str:
    """The machines, each with the sizes that were timed there."""
    at: dict[str, list[str]] = {}
    for record in records:
        row = record["rows"][-1]
        size = (
            f"{row['classes']:,} x {row['dim']} at {row['rate']:g} ({row['precision']}, {step.groups_of(row)} groups)"
        )
        at.setdefault(place(record["environment"]), []).append(size)
    return "; ".join(f"{where}: {', '.join(dict.fromkeys(sizes))}" for where, sizes in at.items())


def place(machine: dict) -> str:
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    return f"{machine['gpu'] or machine['cpu']}, {threads}, torch {machine['torch']}, {machine['date']}"


def filled(text: str) -> str:
    def fill(match: re.Match) -> str:
        return f"<!-- table {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> int:
    if sys.argv[1:] not in (["write"], ["check"]):
        print(__doc__)
        return 2
    stale = [path for path in DOCUMENTS if filled(path.read_text()) != path.read_text()]
    for path in stale:
        if sys.argv[1] == "write":
            path.write_text(filled(path.read_text()))
        else:
            print(f"{path.relative_to(ROOT)}: a table differs from its record; run: python tools/readme.py write")
    return int(sys.argv[1] == "check" and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
