"""searches.py: every way to choose classes, timed with one active set and with groups."""

import json

import pytest
import torch

from annsoftmax_ref import cli
from annsoftmax_ref.bench import searches
from annsoftmax_ref.rivals import LabelGraphClasses

REBUILT = {"lsh": 50, "forest": 100, "knn": 100}  # steps between rebuilds


@pytest.fixture(scope="module")
def rows():
    return searches.bench_searches(600, [0.3, 0.1], list(searches.HEADS), False, rounds=2, dim=16, batch=24)


def test_every_head_has_its_lines_at_every_rate(rows):
    found = {(row["head"], row["rate"], row["by_rule"]) for row in rows}
    sampling = {(head, rate, by_rule) for head in searches.HEADS for rate in (0.3, 0.1) for by_rule in (False, True)}
    assert found == {line for line in sampling if line[0] != "full" or not line[2]} and len(found) == len(rows)


def test_groups_are_those_of_the_rule(rows):
    for row in rows:
        wanted = {0.3: 2, 0.1: 6}[row["rate"]] if row["by_rule"] else 1
        assert row["groups"] == (None if row["head"] == "full" else wanted), row


def test_rebuilding_is_spread_over_the_steps_and_paid_at_every_rate(rows):
    for row in rows:
        assert row["ms"] == row["ms_median"] + row["rebuilding_ms"]
        assert (row["rebuilding_ms"] > 0) == (row["head"] in REBUILT), row
    for head in REBUILT:  # built once, for the first rate
        assert len({row["rebuilding_ms"] for row in rows if row["head"] == head}) == 1


def test_a_part_of_a_large_graph_is_that_of_the_whole(generator):
    directions = torch.nn.functional.normalize(torch.randn(300, 16, generator=generator), dim=1)
    whole, part = LabelGraphClasses(0.2), searches.PartOfGraph(0.2)
    part.asked = torch.tensor([5, 7, 299])
    for selector in (whole, part):
        selector.bind(300, 16)
        selector.rebuild(directions, generator)
    assert torch.equal(part.graph[part.asked], whole.graph[part.asked]) and not part.graph[0].any()
    assert part.whole_ms > 0


def test_large_graphs_are_timed_by_a_part(monkeypatch):
    monkeypatch.setattr(searches, "WHOLE_GRAPH", 100)
    rows = searches.bench_searches(600, [0.2, 0.1], ["knn"], False, rounds=1, dim=16, batch=24)
    assert len({row["rebuilding_ms"] for row in rows}) == 1 and rows[0]["rebuilding_ms"] > 0


def test_command_prints_a_table_and_writes_a_record(tmp_path, capsys):
    path = tmp_path / "searches.json"
    arguments = ["--classes", "300", "500", "--rates", "0.3", "--heads", "full", "forest", "ann", "--batch", "16"]
    assert cli.main(["bench", "searches", *arguments, "--rounds", "1", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "| 300, 1/3 " in printed and "| 500, 1/3 " in printed and "forest, groups" in printed
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    assert not any(cell.strip() == "-" for line in lines for cell in line.split("|"))
    assert len(json.loads(path.read_text())["rows"]) == 10
