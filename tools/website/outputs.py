"""What a static page shows in another way than a notebook: widgets, words for pictures, cells in C++ and CUDA."""

from __future__ import annotations

import json
import re

from docutils import nodes
from sphinx.addnodes import pending_xref

WIDGET = re.compile(r"\w*Box\(children=\(")
FOREIGN = {"%%cuda": "cuda", "%%cpp": "cpp"}  # magics whose cells are in another language


def prepare_notebook(text: str) -> str:
    """A notebook's JSON with what MyST-NB looks for: the words for a cell's picture, and that cells may hold magics."""
    notebook = json.loads(text)
    notebook["metadata"].setdefault("language_info", {"name": "python"})["pygments_lexer"] = "ipython3"
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [output for output in cell["outputs"] if not shows_the_source(output)]
        words = [
            output["metadata"].get("image/png", {}).get("alt") for output in cell.get("outputs", ()) if "data" in output
        ]
        if any(words):
            cell["metadata"]["mystnb"] = {"image": {"alt": " ".join(filter(None, words))}}
    return json.dumps(notebook)


def shows_the_source(output: dict) -> bool:
    """Whether it is a cell's text in colours, or these (``kernel_page``); the page has its own."""
    return "cuda-cell" in "".join(output.get("data", {}).get("text/html", ""))


def in_place_of_controls() -> nodes.paragraph:
    text = "Here are controls that move a picture. They need a kernel: "
    link = pending_xref("", nodes.inline(text="run the notebook"), refdomain="std", reftype="doc", reftarget="/run")
    link["refexplicit"] = True
    return nodes.paragraph("", "", nodes.Text(text), link, nodes.Text(" to move them."))


def for_a_page(app, tree: nodes.document) -> None:
    """For Sphinx's event ``doctree-read``."""
    for block in list(tree.findall(nodes.literal_block)):
        text = block.astext()
        if WIDGET.match(text):
            block.replace_self(nodes.container("", in_place_of_controls(), classes=["widget-note"]))
        for magic, language in FOREIGN.items():
            if text.startswith(magic):
                block["language"] = language
                block["highlight_args"] = {"force": True}  # the magic's own line is in none
