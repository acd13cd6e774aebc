"""A %%cuda_kernel cell is the package's own text, or says by a tag what else it is.

The tags: `planted` (a fault to be found), `exercise` (a stub or a solution) and `lesson-rung` (a step that the
package's ladder leaves out, with a name in the cell's metadata under "rung"). Comments and line breaks may differ.
"""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell
from nbval_runs import ROOT, notebook_cells, tool

from kernels_inline.cuda import sources

NOTEBOOKS = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
OTHER = {"planted", "exercise", "lesson-rung"}
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def plain(text):
    """Without comments and white space, but for one space where two words meet."""
    words = " ".join(COMMENT.sub(" ", text).split())
    return re.sub(r"(?<!\w) | (?!\w)", "", words)


PACKAGE = {path.name: plain(path.read_text()) for path in sources.FOLDER.iterdir() if path.suffix in (".cu", ".h")}


def pieces(body):
    """Functions, structs and constants of a cell: what stands between empty lines that are in no braces."""
    found, depth = [[]], 0
    for line in COMMENT.sub("", body).splitlines():
        depth += line.count("{") - line.count("}")
        if line.strip():
            found[-1].append(line)
        elif depth == 0 and found[-1]:
            found.append([])
    return ["\n".join(piece) for piece in found if piece]


def fault(cell):
    """One sentence on a cell that is no text of the package's and does not say so; None if there is nothing wrong."""
    tags = set(cell.metadata.get("tags", []))
    if "lesson-rung" in tags and not cell.metadata.get("rung"):
        return "is tagged lesson-rung and has no name under rung in its metadata"
    if tags & OTHER:
        return None
    for piece in pieces(cell.source.partition("\n")[2]):
        if not any(plain(piece) in text for text in PACKAGE.values()):
            return f"holds text that no file of kernels_inline/cuda has: {piece.strip().splitlines()[0]}"
    return None


def kernel_cells(path):
    cells = tool.code_cells(nbformat.read(path, as_version=4))
    return [(number, cell) for number, cell in enumerate(cells, 1) if notebook_cells.CUDA_CELL.match(cell.source)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_kernel_cells_are_the_package_s_or_say_what_they_are(path):
    faults = [(number, fault(cell)) for number, cell in kernel_cells(path)]
    assert [(number, words) for number, words in faults if words] == []


def test_named_rungs_are_few():
    for path in NOTEBOOKS:
        rungs = [cell.metadata.get("rung") for _, cell in kernel_cells(path) if cell.metadata.get("rung")]
        assert len(rungs) == len(set(rungs)) <= 6, f"{path.name} has the rungs {rungs}"


OWN = """%%cuda_kernel row_argmax_1
__device__ float4 add4(float4 x, float4 y) {   // not as the package breaks the line
    return make_float4(x.x + y.x, x.y + y.y,
                       x.z + y.z, x.w + y.w); }
"""


def test_a_changed_sign_is_found_and_a_changed_line_break_is_not():
    own = OWN.replace("__device__", "__device__ __forceinline__")
    assert fault(new_code_cell(own)) is None
    assert "no file" in fault(new_code_cell(own.replace("x.w + y.w", "x.w - y.w")))
    assert "no file" in fault(new_code_cell(own + "\n__global__ void mine() {}\n"))
    for tag in OTHER - {"lesson-rung"}:
        assert fault(new_code_cell(own + "\nmine", metadata={"tags": [tag]})) is None
    assert "no name" in fault(new_code_cell(own, metadata={"tags": ["lesson-rung"]}))
    assert fault(new_code_cell("%%cuda_kernel f\nmine", metadata={"tags": ["lesson-rung"], "rung": "mine"})) is None
