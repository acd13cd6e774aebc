"""Search crossed with grouping: how much of a head's accuracy is its search, and how much its groups of samples."""

from __future__ import annotations

from itertools import product

from matplotlib.figure import Figure

from annsoftmax_ref.experiments import plots, records
from annsoftmax_ref.experiments.reports import HOW_TOLD, Cells, cross, gaps, paired_gap, parts, percent
from annsoftmax_ref.experiments.settings import FIVE, GLYPHS, PAIRS, SEEDS, SMALL_RATES, one_in, seeded

COSTS = "results/cpu/searches.json"  # by ``annsoftmax bench searches``
ALONE = "ann, far=False"  # active classes alone, as the rivals score them
SEARCHES = {
    "random": ("random", {}),
    "lsh": ("lsh", {}),
    "forest": ("forest", {}),
    "knn": ("knn", {}),
    ALONE: ("ann", {"far": False}),
}
# What the searches are given: the rivals have one set of their own accord, ann has groups by the rule.
ONE, GROUPS = "", ", groups"
RULE = {name: {} if head == "ann" else {"groups": "rule"} for name, (head, _) in SEARCHES.items()}
SINGLE = {name: {"groups": 1} if head == "ann" else {} for name, (head, _) in SEARCHES.items()}
# Less than a point apart everywhere, so that three seeds do not tell them apart.
CLOSE = (f"forest{GROUPS}", f"{ALONE}{GROUPS}")
SETTINGS = {
    **{f"pairs, {one_in(rate)}": {"rate": rate, **PAIRS} for rate in SMALL_RATES},
    **{
        f"glyphs, {objective}": {"rate": 0.1, "objective": objective, **GLYPHS}
        for objective in ("cross_entropy", "cosface")
    },
}


def crossed_cells() -> dict:
    """Cells (search with what it is given, setting)."""
    lines = {"full": ("full", {})}
    for name, (head, options) in SEARCHES.items():
        lines[name + ONE] = (head, options | SINGLE[name])
        lines[name + GROUPS] = (head, options | RULE[name])
    lines[ALONE + ", groups at random"] = ("ann", {"far": False, "grouping": "random"})
    lines["ann" + GROUPS] = ("ann", {})
    return {
        (line, setting): seeded(FIVE if line in CLOSE else SEEDS, head=head, options=options, **fields)
        for (setting, fields), (line, (head, options)) in product(SETTINGS.items(), lines.items())
    }


def report_crossed(cells: Cells) -> str:
    ours, rivals = ALONE + GROUPS, [name + GROUPS for name in SEARCHES]
    by_setting = parts(cells, 1)
    equal = [f"{setting}: {gaps(part, 'accuracy', ours, rivals)}" for setting, part in by_setting.items()]
    bring = [f"- {setting}: {brought}" for setting, part in by_setting.items() if (brought := _brought(part))]
    told = [
        "At equal groups, by the rule and of similar samples:",
        *equal,
        "What those groups bring each search against one set for the batch, in points:",
        "\n".join(bring),
    ]
    return "\n\n".join([cross(cells, percent("accuracy"), "top-1, %"), *told, HOW_TOLD])


def _brought(cells: Cells) -> str:
    """By how many points each search is ahead of itself with one set."""
    rows = {line: found for (line, _), found in cells.items()}
    found = {name: paired_gap(rows[name + GROUPS], rows[name + ONE], "accuracy") for name in SEARCHES}
    return ", ".join(f"{name} {'-' * (gap.mean < 0)}{gap}" for name, gap in found.items() if gap is not None)


def draw_crossed(cells: Cells) -> Figure:
    """Accuracy on the pairs against what a step costs, with one set for the batch and with groups."""
    costs = {
        (row["head"], row["by_rule"], row["rate"]): row["ms"]
        for row in records.read_record(COSTS)["rows"]
        if row["classes"] == 20_000
    }
    panels: dict[str, dict[str, list]] = {"one active set a batch": {}, "groups of similar samples, by the rule": {}}
    for curves, suffix in zip(panels.values(), (ONE, GROUPS), strict=True):
        for name, (head, _) in SEARCHES.items():
            found = [cells[name + suffix, setting] for setting in SETTINGS if setting.startswith("pairs")]
            curves[head] = [(costs[head, suffix == GROUPS, rows[0]["rate"]], rows) for rows in found if rows]
        whole = cells["full", next(iter(SETTINGS))]
        curves["full"] = [(costs["full", False, 0.05], whole)] if whole else []
    rates = ", ".join(setting.removeprefix("pairs, ") for setting in SETTINGS if setting.startswith("pairs"))
    return plots.cost_curves(f"20,000 classes; from the top, {rates} of them scored", panels)
