"""The way through the course: what stands at the head and at the end of each notebook, so that it is the same in all.

``python tools/notebooks.py navigate`` writes both into the notebooks, and ``check`` says where they are not so. Links
lead only to notebooks that are there.
"""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path

# The eight stages of a step, in their order, and the number of the notebook that builds each up.
STAGES = {
    "groups": "06",
    "search": "04",
    "active set": "06",
    "rows": "09",
    "objective": "07",
    "gradients": "01",
    "row update": "09",
    "index": "05",
}
# By number: what a notebook is about, in words, and the stages of a step that it is about.
PLACES = {
    "00": ("the whole, before its parts", tuple(STAGES)),
    "01": ("what a step costs, and why few classes carry it", ("objective", "gradients")),
    "02": ("a side trip: classes at random", ("active set",)),
    "03": ("a side trip: other searches", ("search",)),
    "04": ("a bit for each number", ("search", "index")),
    "05": ("lists of neighbours", ("search", "index")),
    "06": ("active sets that are shared", ("groups", "active set")),
    "07": ("what a sample is asked for", ("objective",)),
    "08": ("all eight stages, put together", tuple(STAGES)),
    "09": ("a step for some of the rows", ("rows", "row update")),
    "10": ("what comes of many steps, and how it is measured", ()),
    "11": ("the first kernels", ("search",)),
    "12": ("the first kernels for a GPU", ("rows",)),
    "13": ("kernels that count bits", ("search", "index")),
    "14": ("kernels that choose", ("active set", "objective", "gradients")),
    "15": ("all stages on a GPU", tuple(STAGES)),
    "16": ("what the paper leaves open", ("search", "objective")),
    "17": ("the classes on many processes", ("active set", "objective", "gradients")),
    "18": ("the whole at its largest, planned", tuple(STAGES)),
    "19": ("the whole on data of your own", tuple(STAGES)),
}
SHORT_WAY = ("00", "01", "04", "05", "06", "09", "08", "07", "10")
LAST_CELL = "way-on"  # the id of the cell with the links at the end


def head(number: str, folder: Path) -> str:
    """The strip below the title: where the reader is, as markdown; the other stages link to where they are built up."""
    about, here = _place(number)
    stages = [f"**{name}**" if name in here else _link(name, STAGES[name], folder) for name in STAGES]
    return f"> **You are here:** notebook {number}, {about}.\n>\n> A step: {' → '.join(stages)}"


def foot(number: str, folder: Path) -> str:
    """The links at the end: back, next, and next on the short way where that is another one."""
    _place(number)
    before, after = str(int(number) - 1).zfill(2), str(int(number) + 1).zfill(2)
    ways = [("Back", before), ("Next", after)]
    if number in SHORT_WAY[:-1]:
        short = SHORT_WAY[SHORT_WAY.index(number) + 1]
        ways += [("Next on the short way", short)] if short != after else []
    links = [f"**{way}:** {_link(_title(to, folder), to, folder)}" for way, to in ways if _file(to, folder)]
    return " · ".join(links)


def put(notebook, path: Path) -> None:
    """Writes both into the notebook (nbformat's), which stands at ``path``; nothing into one that has no place."""
    number, folder = path.name[:2], path.parent
    if number not in PLACES:
        return
    first = notebook.cells[0]
    title, _, rest = first.source.partition("\n")
    rest = re.sub(r"\A\n+(?:>.*(?:\n|\Z))*", "", rest).lstrip("\n")
    first.source = f"{title}\n\n{head(number, folder)}\n\n{rest}".rstrip("\n")
    if notebook.cells[-1].get("id") != LAST_CELL:
        from nbformat.v4 import new_markdown_cell

        notebook.cells.append(new_markdown_cell(id=LAST_CELL))
    notebook.cells[-1].source = foot(number, folder)


def is_put(notebook, path: Path) -> bool:
    """Whether ``put`` would change nothing."""
    there = deepcopy(notebook)
    put(there, path)
    return [cell.source for cell in there.cells] == [cell.source for cell in notebook.cells]


def _place(number: str):
    if number not in PLACES:
        raise ValueError(f"number is {number!r}; it should be one of {', '.join(PLACES)}")
    return PLACES[number]


def _file(number: str, folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob(f"{number}_*.ipynb"))), None)


def _title(number: str, folder: Path) -> str:
    file = _file(number, folder)
    first = json.loads(file.read_text(encoding="utf-8"))["cells"][0]["source"]
    return "".join(first).partition("\n")[0].removeprefix("# ")


def _link(words: str, number: str, folder: Path) -> str:
    file = _file(number, folder)
    return f"[{words}]({file.name})" if file else words
