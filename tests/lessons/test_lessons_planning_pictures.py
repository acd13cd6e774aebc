"""Pictures of notebook 18: their parts add up to what is planned; the sliders' picture follows, and says what fits."""

import html
import re
from dataclasses import replace

import ipywidgets as widgets
import pytest
from moved_controls import QUICK, move

from annsoftmax_ref.lessons import planning_pictures as pictures
from annsoftmax_ref.lessons.controls import explore_svg
from annsoftmax_ref.planning import communication, memory, ranks, times
from annsoftmax_ref.planning.memory import Training

PAPER = Training(300_000_000, 512, 16_384, flat=1)
GPU = "h100-80gb"


@pytest.mark.parametrize("job", [PAPER, replace(PAPER, flat=0), replace(PAPER, rate=0.001, batch=65_536)], ids=str)
@pytest.mark.parametrize("P", [1, 256])
def test_parts_and_stages_add_up_to_the_plan(job, P):
    rank = ranks.rank_of(job, P)
    assert sum(pictures.memory_by_part(job, P).values()) == memory.total(rank)
    sent = sum(communication.exchange_ms(job, P, communication.LINKS[GPU]).values())
    found = pictures.ms_by_stage(job, P, GPU)
    assert sum(found.values()) == pytest.approx(sum(times.stages(rank, times.CARDS[GPU]).values()) + sent)
    full = pictures.ms_by_stage(job, P, GPU, "full")
    assert sum(full.values()) == pytest.approx(sum(times.full_stages(rank, times.CARDS[GPU]).values()) + sent)
    assert full["search"] == 0 and full["sent and received"] == sent
    assert pictures.ms_by_stage(job, P, GPU, "random") == found | {"search": 0}


def test_an_unknown_head_is_refused():
    with pytest.raises(ValueError, match="^head is 'lsh'; it should be 'full', 'random' or 'ann'"):
        pictures.ms_by_stage(PAPER, 8, GPU, "lsh")


def test_all_cards_together_have_the_same_rows_and_more_samples():
    one, every = pictures.draw_memory(PAPER, (64, 256), room=80e9).axes
    total = [memory.total(ranks.rank_of(PAPER, P)) / 1e9 for P in (64, 256)]
    assert list(one.lines[0].get_ydata()) == pytest.approx(total)
    heights = {bars.get_label(): [bar.get_height() for bar in bars] for bars in every.containers}
    assert heights["weights"] == pytest.approx([614.4, 614.4])
    assert heights["everybody's samples"][1] > 2 * heights["everybody's samples"][0]
    assert sum(map(sum, heights.values())) == pytest.approx(64 * total[0] + 256 * total[1])


def test_steps_end_at_their_sums():
    steps = {head: pictures.ms_by_stage(PAPER, 256, GPU, head) for head in ("full", "ann")}
    (axes,) = pictures.draw_steps(steps).axes
    ends = [sum(bars[place].get_width() for bars in axes.containers) for place in range(2)]
    assert ends == pytest.approx([sum(stages.values()) for stages in steps.values()])
    assert {text.get_text() for text in axes.texts} == {f" {end:,.0f} ms" for end in ends}


def test_levers_are_in_days():
    levers = {"GPUs": {P: pictures.ms_by_stage(PAPER, P, GPU) for P in (64, 128)}, "batch": {}}
    levers["batch"] = {16_384: levers["GPUs"][64]}
    gpus, batch = pictures.draw_levers(levers, lambda name, value, ms: ms / value).axes
    whole, computed, sent = (list(line.get_ydata()) for line in gpus.lines)
    assert whole == pytest.approx([a + b for a, b in zip(computed, sent, strict=True)])
    assert whole[0] == pytest.approx(sum(levers["GPUs"][64].values()) / 64)
    assert gpus.get_ylim() == batch.get_ylim()


@pytest.mark.parametrize(
    "storage, gpus, words",
    [
        ("fp32", 256, "13.0 GB fits on each of 256 GPUs (32 machines of 8); the fewest: 41 GPUs (6 machines of 8)"),
        ("bf16", 32, "83.8 GB does NOT fit on each of 32 GPUs (4 machines of 8); the fewest: 33 GPUs"),
    ],
)
def test_the_verdict(storage, gpus, words):
    assert pictures.verdict(replace(PAPER, storage=storage), gpus).startswith(words)


def test_where_no_number_is_enough_it_says_so():
    assert pictures.verdict(replace(PAPER, batch=1 << 26), 256).endswith("no number of them is enough")
    assert "1 GPU (1 machine of 8); the fewest: 1 GPU (1 machine" in pictures.verdict(Training(1000, flat=1), 1)


def test_the_plan_says_every_part_and_ends_at_its_sums():
    picture = pictures.draw_plan(PAPER.classes, PAPER.dim, PAPER.rate, PAPER.batch, 256, "fp32")
    for parts, unit, scale in (
        (pictures.memory_by_part(PAPER, 256), "GB", 1e9),
        (pictures.ms_by_stage(PAPER, 256, GPU), "ms", 1),
    ):
        for name, value in (parts | {"all": sum(parts.values())}).items():
            assert f">{html.escape(name)}<" in picture and f">{value / scale:,.1f} {unit}<" in picture
    assert pictures.verdict(PAPER, 256) in picture and "currentColor" in picture
    (limit,) = re.findall(r'<line x1="(\S+)"[^>]*stroke="#c9463d"', picture)
    boxes = [(float(x), float(width)) for x, width in re.findall(r'<rect x="(\S+)" y="\S+" width="(\S+)"', picture)]
    for steps in (boxes[:6], boxes[6:]):  # each part begins where the one before ends, and all are as long as the sum
        for (x, width), (following, _) in zip(steps[:4], steps[1:5], strict=True):
            assert x + width == pytest.approx(following, abs=0.01)
        assert steps[5][0] == steps[0][0] and steps[5][1] == pytest.approx(sum(w for _, w in steps[:5]), abs=0.01)
    assert boxes[5][0] + boxes[5][1] < float(limit)  # it fits


def test_the_picture_follows_its_sliders_and_is_quick():
    box = explore_svg(
        pictures.draw_plan,
        classes=widgets.SelectionSlider(options=[10**6, 3 * 10**8], value=3 * 10**8),
        dim=widgets.SelectionSlider(options=[128, 512], value=512),
        rate=widgets.SelectionSlider(options=[0.01, 0.1], value=0.1),
        batch=widgets.SelectionSlider(options=[4096, 16_384], value=16_384),
        gpus=widgets.SelectionSlider(options=[8, 256], value=256),
        storage=widgets.SelectionSlider(options=["fp32", "fp8_int8"], value="fp32"),
    )
    moves = [("storage", "fp8_int8"), ("gpus", 8), ("batch", 4096), ("rate", 0.01), ("dim", 128), ("classes", 10**6)]
    assert max(move(box, *moves)) < QUICK
