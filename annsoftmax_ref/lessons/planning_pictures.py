"""Pictures of notebook 18: the memory of a split head by part, a step's time by stage, and both under sliders.

All are counted or modelled by ``annsoftmax_ref.planning``; nothing of them is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from annsoftmax_ref.experiments.figures import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY
from annsoftmax_ref.lessons import svg
from annsoftmax_ref.lessons.pictures import SIZE, new_figure
from annsoftmax_ref.planning import communication, memory, ranks, times
from annsoftmax_ref.planning.memory import Training

GB = 1e9
LEFT, RIGHT, STEP = 180, 84, 20  # pixels of the plan in SVG: of names, of the last number, and of a part's height
LOOK = {  # of a part or a stage: colour and hatching
    "weights": (BLUE, ""),
    "optimizer's buffers": (SKY, "//"),
    "codes and lists": (GREEN, ""),
    "rows and logits of a step": (ORANGE, ".."),
    "everybody's samples": (PINK, "xx"),
    "search": (GREEN, ""),
    "products": (BLUE, ""),
    "softmax": (ORANGE, ".."),
    "rows": (SKY, "//"),
    "sent and received": (PINK, "xx"),
}
# Of the stages that ``times`` tells apart, those that are drawn as one.
STAGES = {
    "search": ("search", "re-ranking", "selection"),
    "products": ("products",),
    "softmax": ("softmax", "margin and softmax"),
    "rows": ("unit rows", "catching up", "gradient of rows", "update", "update and codes"),
}


def memory_by_part(job: Training, P: int) -> dict[str, float]:
    """Bytes of the fullest of P processes at the peak of a step."""
    rank = ranks.rank_of(job, P)
    kept, peak = memory.kept(rank), max(memory.moments(rank).values())
    parts = {name: kept.pop(name) for name in ("weights", "optimizer's buffers")}
    step = {"rows and logits of a step": peak - rank.gathered, "everybody's samples": rank.gathered}
    return {**parts, "codes and lists": sum(kept.values()), **step}


def ms_by_stage(job: Training, P: int, gpu: str, head: str = "ann") -> dict[str, float]:
    """Milliseconds of a step on one of P processes, by the model. head: "full", "random" (no search) or "ann"."""
    if head not in ("full", "random", "ann"):
        raise ValueError(f"head is {head!r}; it should be 'full', 'random' or 'ann'")
    rank, card = ranks.rank_of(job, P), times.CARDS[gpu]
    found = times.full_stages(rank, card) if head == "full" else times.stages(rank, card)
    drawn = {stage: sum(found.pop(name, 0) for name in names) for stage, names in STAGES.items()}
    if found:
        raise ValueError(f"stages are {', '.join(found)} beside those known; each should have its place in STAGES")
    if head == "random":
        drawn["search"] = 0.0
    return {**drawn, "sent and received": sum(communication.exchange_ms(job, P, communication.LINKS[gpu]).values())}


def draw_memory(job: Training, counts: Sequence[int], room: float) -> Figure:
    """GB of a GPU against their number, with the room of a card; and GB of all GPUs together, by part."""
    figure, (one, every) = new_figure(10, 4, columns=2)
    found = [memory_by_part(job, P) for P in counts]
    one.plot(counts, [sum(parts.values()) / GB for parts in found], color=BLACK, marker="o", label="a GPU")
    one.axhline(room / GB, color=RED, linestyle=":")
    one.text(counts[-1], 1.1 * room / GB, f"room of a card: {room / GB:.0f} GB", color=RED, ha="right", fontsize=SIZE)
    one.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="GB on each GPU")
    one.set_xticks(counts, [f"{P:,}" for P in counts])
    _one_two_five(one)
    one.grid(alpha=0.3)
    _stack(every, [str(P) for P in counts], [_times_each(P, parts) for P, parts in zip(counts, found, strict=True)], GB)
    every.set(xlabel="GPUs", ylabel="GB on all GPUs together")
    every.yaxis.set_major_formatter("{x:,.0f}")
    every.margins(y=0.45)  # for the legend
    every.legend(loc="upper left", fontsize=SIZE - 2, ncols=2)
    return figure


def draw_steps(steps: Mapping[str, Mapping[str, float]]) -> Figure:
    """A bar for each name, of milliseconds by stage, with their sum at its end."""
    figure, axes = new_figure(8, 0.55 * len(steps) + 1.5)
    _lie(axes, list(steps), list(steps.values()), 1.0, "{:,.0f} ms")
    axes.set_xlabel("ms a step, by the model")
    axes.legend(loc="lower right", fontsize=SIZE - 1)
    return figure


def draw_levers(levers: Mapping[str, Mapping[float, Mapping[str, float]]], days_of: Callable) -> Figure:
    """Days of a training against what is moved, a panel for each name: all of a step, its computing, and what is sent.

    levers: {name: {value: milliseconds by stage}}. days_of(name, value, ms) -> days.
    """
    figure, panels = new_figure(10, 3.6, columns=len(levers))
    for axes, (name, moved) in zip(panels, levers.items(), strict=True):
        sent = {value: stages["sent and received"] for value, stages in moved.items()}
        whole = {value: sum(stages.values()) for value, stages in moved.items()}
        computed = {value: whole[value] - sent[value] for value in moved}
        for label, ms, look in (
            ("all", whole, (BLACK, "o", "-")),
            ("computed", computed, (BLUE, "^", "--")),
            ("sent and received", sent, (PINK, "s", ":")),
        ):
            days = [days_of(name, value, one) for value, one in ms.items()]
            axes.plot(list(moved), days, color=look[0], marker=look[1], linestyle=look[2], label=label)
        axes.set(xscale="log", yscale="log", xlabel=name)
        axes.set_xticks(list(moved), [f"{value:,g}" for value in moved])
        axes.tick_params(axis="x", labelrotation=45, labelsize=SIZE - 1)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("days, by the model")
    low, high = min(axes.get_ylim()[0] for axes in panels), max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_ylim(low, high)
        _one_two_five(axes)
    panels[-1].legend(fontsize=SIZE - 1)
    return figure


def draw_plan(
    classes: int,
    dim: int,
    rate: float,
    batch: int,
    gpus: int,
    storage: str,
    gpu: str = "h100-80gb",
    beside: float = 4.0,
) -> str:
    """SVG: memory by part up to a card's room, time by stage, and in words: does it fit, and how few GPUs would do."""
    job = Training(classes, dim, batch, rate, storage=storage, flat=1)
    room, said = times.room(gpu, beside) / GB, verdict(job, gpus, gpu, beside)
    parts = {name: count / GB for name, count in memory_by_part(job, gpus).items()}
    stages = ms_by_stage(job, gpus, gpu)
    body = [svg.bold(0, 16, said)]
    body += _stairs(34, f"GB of a GPU; the line is the room of {gpu}, {room:.0f} GB", parts, svg.BLUE, "GB", room)
    body += _stairs(56 + _height(parts), "milliseconds of a step, by the model", stages, svg.ORANGE, "ms")
    return svg.drawing(60 + _height(parts) + _height(stages), body, said)


def verdict(job: Training, gpus: int, gpu: str = "h100-80gb", beside: float = 4.0) -> str:
    """Whether a step fits, and the fewest GPUs with the same batch, in one sentence."""
    room = times.room(gpu, beside)
    needed, fewest = sum(memory_by_part(job, gpus).values()), ranks.fewest(job, room)
    fits = "fits" if needed <= room else "does NOT fit"
    few = "no number of them is enough" if fewest is None else f"the fewest: {_machines(fewest)}"
    return f"{needed / GB:,.1f} GB {fits} on each of {_machines(gpus)}; {few}"


def _machines(gpus: int) -> str:
    nodes = ranks.whole_nodes(gpus)
    return f"{gpus:,} GPU{'s' * (gpus > 1)} ({nodes:,} machine{'s' * (nodes > 1)} of {ranks.NODE})"


def _one_two_five(axes: Axes) -> None:
    """Numbers at the 1, 2 and 5 of a logarithmic axis, so that one that spans little has some, too."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.minorticks_off()


def _times_each(P: int, parts: Mapping[str, float]) -> dict[str, float]:
    return {name: P * count for name, count in parts.items()}


def _stack(axes: Axes, names: Sequence[str], bars: Sequence[Mapping[str, float]], unit: float) -> None:
    """Bars side by side, each of its parts one above the other."""
    _bars(axes.bar, "bottom", names, bars, unit)


def _lie(axes: Axes, names: Sequence[str], bars: Sequence[Mapping[str, float]], unit: float, written: str) -> None:
    """Bars one below the other, each of its parts in a row, with their sum at its end, as ``written``."""
    ends = _bars(axes.barh, "left", names, bars, unit)
    for place, end in enumerate(ends):
        axes.text(end, place, " " + written.format(end), va="center", fontsize=SIZE)
    axes.invert_yaxis()
    axes.margins(x=0.2)  # for the sums


def _bars(draw: Callable, start: str, names: Sequence[str], bars: Sequence[Mapping[str, float]], unit: float) -> list:
    """Draws each part of all bars; ``start``: what ``draw`` calls the place where a part begins. -> their ends."""
    ends = [0.0] * len(bars)
    for part in bars[0]:
        values, (colour, hatch) = [bar[part] / unit for bar in bars], LOOK[part]
        look = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
        draw(names, values, 0.7, **{start: ends}, label=part, **look)
        ends = [end + value for end, value in zip(ends, values, strict=True)]
    return ends


def _height(parts: Mapping[str, float]) -> int:
    """Pixels of ``_stairs``: a title, a step for each part, and their sum."""
    return 12 + STEP * (len(parts) + 1)


def _stairs(top: int, title: str, parts: Mapping[str, float], colour: str, unit: str, limit: float = 0.0) -> list[str]:
    """SVG of parts one below the other, each beginning where the one before ends, and of their sum; a line at limit."""
    whole = sum(parts.values())
    scale = (svg.WIDTH - LEFT - RIGHT) / max(whole, limit)
    body, begin = [svg.text(0, top + 8, title, size=svg.SMALL)], 0.0
    for place, (name, value) in enumerate([*parts.items(), ("all", whole)]):
        y, x = top + 12 + place * STEP, LEFT + scale * (0 if name == "all" else begin)
        body.append(svg.text(LEFT - 8, y + 14, name, at="end"))
        body.append(svg.box(x, y, scale * value, STEP - 3, fill=colour, wide=0.5))
        body.append(svg.text(x + scale * value + 6, y + 14, f"{value:,.1f} {unit}", size=svg.SMALL))
        begin += value
    if limit:
        x = LEFT + scale * limit
        body.append(svg.line(x, top + 12, x, top + _height(parts), svg.RED, 2.5))
    return body
