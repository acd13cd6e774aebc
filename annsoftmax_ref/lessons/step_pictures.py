"""Pictures of notebook 15: where a number lands in bfloat16 as its random bits vary, and a step's stages as bars."""

from __future__ import annotations

from collections.abc import Mapping

import ipywidgets as widgets
import numpy as np
import torch

from annsoftmax_ref.lessons.controls import explore_svg
from annsoftmax_ref.lessons.svg import BLUE, GREEN, ORANGE, RED, WIDTH, bold, box, drawing, line, text
from annsoftmax_ref.planning.memory import Training
from annsoftmax_ref.planning.times import CARDS, full_stages, stages
from kernels_inline import rows_rounded

CUT = 1 << 16  # values that the half of a float32 which bfloat16 leaves out may have
LEFT, RIGHT = 90, WIDTH - 90  # of the number line


def neighbours(value: float) -> tuple[float, float, int]:
    """The bfloat16 numbers below (or at) and above value > 0, as float32 has it, and its lower 16 bits."""
    if not 0 < value < 1e38:
        raise ValueError(f"value is {value}; it should be above 0 and below 1e38")
    bits = int(np.float32(value).view(np.uint32))
    lower, upper = (float(np.uint32(b).view(np.float32)) for b in (bits & ~0xFFFF, (bits & ~0xFFFF) + CUT))
    return lower, upper, bits & 0xFFFF


def landings(value: float, draws: int) -> np.ndarray:
    """Where value lands with the random bits of the first ``draws`` columns of a row, by the kernels' plain twin."""
    bits = rows_rounded.random_bits(rows_rounded.row_states(0, 1, torch.tensor([0])), draws)
    return rows_rounded.round_at_random(torch.full((1, draws), value), bits, 0)[0].float().numpy()


def rounding(value: float, random: int, draws: int) -> str:
    """SVG: value between its neighbours in bfloat16, where it lands with these random bits, and the mean of draws."""
    lower, upper, rest = neighbours(value)
    if not 0 <= random < CUT:
        raise ValueError(f"random is {random}; it should be 0 to {CUT - 1}")
    up, mean = random + rest >= CUT, float(landings(value, draws).mean())

    def place(x: float) -> float:
        return LEFT + (x - lower) / (upper - lower) * (RIGHT - LEFT)

    said = f"{value:.6g} lies {rest / CUT:.1%} of the way from {lower:.6g} to {upper:.6g}"
    landed = f"lower half {rest} + random {random} = {rest + random}: " + ("a carry, up" if up else "no carry, down")
    body = [bold(0, 16, said), line(LEFT, 62, RIGHT, 62, wide=2)]
    for end in (lower, upper):
        body += [line(place(end), 54, place(end), 70, wide=2), text(place(end), 88, f"{end:.6g}", at="middle")]
    body += [line(place(value), 44, place(value), 70, BLUE, 3)]
    body += [text(place(value), 38, "the number", at="middle", colour=BLUE)]
    end = RIGHT if up else LEFT
    body += [line(place(value), 62, end, 62, ORANGE, 3), text(end, 46, "lands here", at="middle", colour=ORANGE)]
    carry = LEFT + (CUT - rest) / CUT * (RIGHT - LEFT)
    body += [text(0, 122, landed), box(LEFT, 130, carry - LEFT, 16), box(carry, 130, RIGHT - carry, 16, fill=ORANGE)]
    at = LEFT + random / CUT * (RIGHT - LEFT)
    body += [line(at, 126, at, 150, RED, 3), text(LEFT, 164, "random bits 0"), text(RIGHT, 164, CUT - 1, at="end")]
    average = f"mean of {draws}: {mean:.6g}, off by {abs(mean - value) / (upper - lower):.1%} of the spacing"
    body += [
        line(LEFT, 206, RIGHT, 206, wide=2),
        text(0, 190, average),
        line(place(value), 198, place(value), 214, BLUE, 3),
    ]
    body += [
        line(place(mean), 202, place(mean), 222, GREEN, 3),
        text(place(mean), 236, "mean", at="middle", colour=GREEN),
    ]
    return drawing(244, body, f"{said}; {landed}; {average}")


def rounding_explorer(below_one: float = 0.001) -> widgets.VBox:
    return explore_svg(
        lambda change, random, draws: rounding(1 - change, random, 2**draws),
        change=widgets.FloatLogSlider(value=below_one, min=-4.5, max=-2.5, step=0.05, description="1 minus"),
        random=widgets.IntSlider(value=20_000, min=0, max=CUT - 1, step=500),
        draws=widgets.IntSlider(value=6, min=0, max=14, description="2^ draws"),
    )


def bars(times: Mapping[str, Mapping[str, float]], unit: str = "ms") -> str:
    """SVG: under each title its stages as bars, all on one scale, and their sum."""
    longest = max(max(parts.values()) for parts in times.values())
    body, top, said = [], 0, []
    for colour, (title, parts) in zip((BLUE, ORANGE, GREEN, RED), times.items(), strict=False):
        total = f"{title}: {_short(sum(parts.values()))} {unit}"
        body.append(bold(0, top + 16, total))
        said.append(total)
        for stage, spent in parts.items():
            top += 20
            body += [
                text(170, top + 17, stage, at="end"),
                box(180, top + 6, 470 * spent / longest, 13, colour, wide=0.5),
            ]
            body.append(text(186 + 470 * spent / longest, top + 17, f"{_short(spent)} {unit}"))
        top += 38
    return drawing(top, body, "; ".join(said))


def modelled(card: str, classes: int, rate: float, groups: int = 1) -> str:
    """SVG: a step's stages on a card, as ``annsoftmax plan`` models them; nothing of it is measured."""
    job = Training(classes, 512, 512, rate, groups=groups, flat=1)
    if job.active < job.batch // groups:
        raise ValueError(f"rate is {rate:g}: {job.active} active classes; they should be at least a set's labels")
    full, ours = full_stages(job, CARDS[card]), stages(job, CARDS[card])
    return bars(
        {
            f"MODEL, {card}, {classes:,} classes, all of them": full,
            f"MODEL, the nearest {job.active:,}, searched by code": ours,
        }
    )


def modelled_explorer() -> widgets.VBox:
    return explore_svg(
        lambda card, classes, rate, groups: modelled(card, int(round(10**classes, -3)), rate, groups),
        card=widgets.Dropdown(options=list(CARDS), value="h100-80gb"),
        classes=widgets.FloatSlider(value=6, min=4, max=7, step=0.25, description="10^ classes"),
        rate=widgets.FloatLogSlider(value=0.1, min=-3, max=-0.3, step=0.1),
        groups=widgets.IntSlider(value=1, min=1, max=8),
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
