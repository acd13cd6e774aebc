"""Runs the notebooks and stores their outputs (`refresh`), and tests their form (`check`).

    python tools/notebooks.py refresh [NOTEBOOK ...]
    python tools/notebooks.py navigate [NOTEBOOK ...]   # only what `refresh` writes too: where one is, back and next
    python tools/notebooks.py check [NOTEBOOK ...]

Without names: all notebooks of the folder notebooks/. Whether the outputs are true is nbval's business
(`make notebooks`); nbval does not look at a cell without an execution count, so `check` demands one.
"""

import argparse
import builtins
import contextlib
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import nbformat
from notebook_cells import code_cells, heading_lines, is_gpu, output_texts, prose, statement_names

from annsoftmax_ref.lessons import course
from annsoftmax_ref.machine.files import replacing

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
MAX_BYTES = 200_000
MAX_LINES = 30  # of a code cell; a kernel may be longer, and its cell is tagged so
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:home|root|work|tmp|Users)(?:/[\w.-]*|\b)")


# --- refresh -----------------------------------------------------------------------------------


def refresh(path):
    """Run the notebook at `path` in its own folder and store the outputs; two runs give the same bytes.

    Cells tagged `gpu` keep their stored outputs where there is no CUDA device. Nothing is written if a cell
    raises (nbclient.exceptions.CellExecutionError).
    """
    import torch
    from nbclient import NotebookClient

    class Client(NotebookClient):
        async def async_execute_cell(self, cell, cell_index, *args, **kwargs):
            if is_gpu(cell) and not torch.cuda.is_available():
                return cell
            return await super().async_execute_cell(cell, cell_index, *args, **kwargs)

    notebook = nbformat.read(path, as_version=4)
    client = Client(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(Path(path).resolve().parent)}},
    )
    client.execute()
    normalise(notebook)
    store(notebook, path)


def navigate(path):
    """Write into the notebook at `path` where the reader is, and the links at its end; nothing is run."""
    store(nbformat.read(path, as_version=4), path)


def store(notebook, path):
    if Path(path).resolve().parent == FOLDER:
        course.put(notebook, Path(path))
    with replacing(path) as temporary:
        temporary.write_text(nbformat.writes(notebook).rstrip("\n") + "\n", encoding="utf-8")


def normalise(notebook):
    """Take out, in place, what differs between runs: widget state and ids, time stamps, Python's version."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for number, cell in enumerate(code_cells(notebook), start=1):
        for key in ("execution", "ExecuteTime"):
            cell.metadata.pop(key, None)
        if cell.execution_count is not None or cell.outputs:
            cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
            output.get("data", {}).pop(WIDGET_VIEW, None)  # its text form stays, for readers without a kernel


# --- check -------------------------------------------------------------------------------------


def check(path):
    """Return one sentence for each fault in the form of the notebook at `path` (none: an empty list)."""
    path = Path(path)
    notebook = nbformat.read(path, as_version=4)
    rules = (executed_in_order, short_cells, no_widget_state, headings, no_machine_paths, images)
    rules += (gpu_cells_are_leaves, names_are_bound)
    faults = [fault for rule in rules for fault in rule(notebook)] + links(notebook, path)
    if path.resolve().parent == FOLDER and not course.is_put(notebook, path):
        faults.append(f"its head or its last links are out of date: run tools/notebooks.py navigate {path.name}")
    size = path.stat().st_size
    if size > MAX_BYTES:
        faults.append(f"the file has {size:,} bytes, and may have {MAX_BYTES:,}")
    return faults


def executed_in_order(notebook):
    """Execution counts are 1, 2, ...; a gpu cell that never met a GPU may have neither count nor output."""
    for number, cell in enumerate(code_cells(notebook), start=1):
        if is_gpu(cell) and cell.execution_count is None and not cell.outputs:
            continue
        if cell.execution_count != number:
            yield f"code cell {number} has execution count {cell.execution_count}: run make refresh-notebooks"


def short_cells(notebook):
    """No code cell is longer than a reader takes in at once."""
    for number, cell in enumerate(code_cells(notebook), start=1):
        lines = len(cell.source.splitlines())
        if lines > MAX_LINES and "kernel" not in cell.metadata.get("tags", []):
            yield f"code cell {number} has {lines} lines, and may have {MAX_LINES}: split it, or tag it kernel"


def no_widget_state(notebook):
    """GitHub refuses to show a notebook that has `metadata.widgets` without a state."""
    if "widgets" in notebook.metadata:
        yield "metadata.widgets is stored: run make refresh-notebooks"


def headings(notebook):
    """One title, at the head, and no skipped levels: what screen readers navigate by."""
    levels = [len(marks) for marks, _ in heading_lines(notebook)]
    if levels.count(1) != 1:
        yield f"there are {levels.count(1)} headings of level 1 ('# '), and must be exactly one"
    previous = 0
    for level, (marks, text) in zip(levels, heading_lines(notebook), strict=True):
        if level > previous + 1:
            yield f"the heading '{marks} {text}' skips a level"
        previous = level


def no_machine_paths(notebook):
    """Neither sources nor stored outputs name folders of the author's machine."""
    for number, cell in enumerate(notebook.cells, start=1):
        texts = [("source", cell.source)]
        texts += [("output", text) for output in cell.get("outputs", []) for text in output_texts(output)]
        for where, text in texts:
            if found := MACHINE_PATH.search(text):
                yield f"cell {number} has a path of one machine in its {where}: {found.group()}"


def images(notebook):
    """Markdown images have alt text."""
    for number, text in prose(notebook):
        for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)", text):
            if not alt.strip():
                yield f"cell {number}: the image {target} has no alt text"
        for tag in re.findall(r"<img\b[^>]*>", text):
            if not re.search(r"""\balt=["'][^"']*\w""", tag):
                yield f"cell {number}: the image {tag} has no alt text"


def links(notebook, path):
    """Relative links lead to files that are there, and '#anchors' to headings."""
    faults = []
    for number, text in prose(notebook):
        targets = re.findall(r"\]\(<?([^)\s>]+)", text) + re.findall(r"""\b(?:href|src)=["']([^"']+)""", text)
        for target in targets:
            if re.match(r"(https?|mailto|attachment|data):", target):
                continue
            name, _, anchor = unquote(target).partition("#")
            file = path.parent / name if name else path
            if name.startswith("/") or not file.exists():
                faults.append(f"cell {number}: the link {target} leads nowhere")
            elif anchor and file.suffix == ".ipynb":
                linked = notebook if not name else nbformat.read(file, as_version=4)
                if anchor not in {text.replace(" ", "-") for _, text in heading_lines(linked)}:
                    faults.append(f"cell {number}: the link {target} names no heading of {file.name}")
    return faults


def gpu_cells_are_leaves(notebook):
    """No other cell uses a name that a gpu cell bound: without a GPU that cell is skipped."""
    owner = {}  # name -> number of the gpu cell that bound it last
    for number, cell in enumerate(code_cells(notebook), start=1):
        try:
            names = list(statement_names(cell.source))
        except SyntaxError:
            yield f"code cell {number} is not plain Python, so the names that it uses cannot be followed"
            continue
        for used, bound in names:
            if is_gpu(cell):
                owner.update(dict.fromkeys(bound, number))
                continue
            for name in sorted(used & owner.keys()):
                yield f"code cell {number} uses '{name}', which the gpu cell {owner[name]} binds"
            for name in bound:
                owner.pop(name, None)


def names_are_bound(notebook):
    """Every name that is used is bound in some cell. (Ruff cannot tell: it does not see what %%cuda_kernel binds.)"""
    used, bound = {}, {*dir(builtins), "get_ipython", "display", "__name__"}  # used: name -> the first cell that does
    for number, cell in enumerate(code_cells(notebook), start=1):
        with contextlib.suppress(SyntaxError):  # of which gpu_cells_are_leaves tells
            for names, binds in statement_names(cell.source):
                used = dict.fromkeys(names, number) | used
                bound |= binds
    yield from (f"code cell {used[name]} uses '{name}', which no cell binds" for name in sorted(used.keys() - bound))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["refresh", "navigate", "check"])
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK")
    options = parser.parse_args(arguments)
    paths = options.notebooks or sorted(
        path for path in FOLDER.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
    )
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        parser.error(f"no such notebook: {', '.join(missing) or FOLDER / '*.ipynb'}")
    status = 0
    for path in paths:
        if options.command == "refresh":
            print(f"running {path.name}", flush=True)
            refresh(path)
        elif options.command == "navigate":
            navigate(path)
        for fault in check(path):
            print(f"{path.name}: {fault}")
            status = 1
    if status == 0:
        print(f"{len(paths)} notebooks: {'' if options.command == 'check' else 'stored, and '}of good form")
    return status


if __name__ == "__main__":
    sys.exit(main())
