"""Notebook 18's exercises: the solutions are what the package plans, and what is nearly right is not."""

import pytest

from annsoftmax_ref.lessons import check
from annsoftmax_ref.lessons import planning_exercises as exercises
from annsoftmax_ref.lessons.exercises import Exercise
from annsoftmax_ref.lessons.planning_exercises import EXERCISES
from annsoftmax_ref.planning import memory, ranks
from annsoftmax_ref.planning.memory import Training


@pytest.mark.parametrize("room, dim, batch, rate", EXERCISES["largest_classes"].cases)
def test_the_largest_number_of_classes_is_that_of_the_plan(room, dim, batch, rate):
    job = Training(1000, dim, batch, rate, groups=1, storage="bf16", flat=1)
    assert exercises.largest_classes(room, dim, batch, rate) == pytest.approx(memory.largest(job, room), rel=2e-3)


@pytest.mark.parametrize("share, sent, fixed, at_one", EXERCISES["rate_of_share"].cases)
def test_at_the_rate_what_is_sent_has_its_share_unless_no_rate_gives_it(share, sent, fixed, at_one):
    rate = exercises.rate_of_share(share, sent, fixed, at_one)
    found = sent / (sent + fixed + rate * at_one)
    assert found == pytest.approx(share) if 0 < rate < 1 else (found > share) == (rate == 1)


@pytest.mark.parametrize("classes, batch, rate, P", EXERCISES["logits_of_gpu"].cases)
def test_logits_are_those_of_the_fullest_process(classes, batch, rate, P):
    rank = ranks.rank_of(Training(classes, 64, batch, rate, groups=1, flat=1), P)
    logits = memory.moments(rank)["logits"] - rank.gathered - rank.active * (memory.ID + 2 * 64)
    assert exercises.logits_of_gpu(classes, batch, rate, P) == logits


@pytest.mark.parametrize(
    "name, wrong",
    [
        ("largest_classes", lambda room, d, B, rate: int(room // (4 * d + d / 8 + 20))),  # the step is forgotten
        ("largest_classes", lambda room, d, B, rate: exercises.largest_classes(room, d, B, rate) + 1),
        ("rate_of_share", lambda share, sent, fixed, at_one: (sent / share - sent - fixed) / at_one),  # beyond 1
        ("rate_of_share", lambda share, sent, fixed, at_one: min(1.0, (sent / share - fixed) / at_one)),
        (
            "storage_that_halves",
            lambda few: next((s for s, n in few.items() if n and few["fp32"] and 2 * n <= few["fp32"]), "none"),
        ),
        ("logits_of_gpu", lambda N, B, rate, P: 2 * -(-B // P) * -(-round(rate * N) // P)),  # own samples alone
        ("logits_of_gpu", lambda N, B, rate, P: 2 * B * (round(rate * N) // P)),  # rounded down
        ("logits_of_gpu", lambda N, B, rate, P: 2 * B * round(rate * N)),  # not split
    ],
)
def test_what_is_nearly_right_is_not(name, wrong, capsys):
    assert check(EXERCISES[name], EXERCISES[name].solution)
    capsys.readouterr()
    assert not check(EXERCISES[name], wrong)
    assert "hint" in capsys.readouterr().out


def test_half_of_the_machines_is_counted_in_machines():
    assert exercises.storage_that_halves({"fp32": 16, "bf16": 9, "fp8": 8}) == "fp8"  # nine GPUs are two machines
    assert exercises.storage_that_halves({"fp32": 9, "bf16": 9}) == "none"


@pytest.mark.parametrize("name", EXERCISES)
def test_an_empty_answer_gets_a_sentence(name, capsys):
    assert isinstance(EXERCISES[name], Exercise)
    assert not check(EXERCISES[name], lambda *arguments: None)
    assert capsys.readouterr().out.startswith("not yet. Case 1")
