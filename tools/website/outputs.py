"""What notebooks store and a static page shows in another way: widgets, the words for a picture, cells in CUDA."""

from __future__ import annotations

import json
import re

from docutils import nodes

WIDGET = re.compile(r"\w*Box\(children=\(")
NOTE = "Here are controls that move a picture. They need a kernel: open the notebook to move them."
CUDA_CELL = re.compile(r"%%cuda_\w+")


def prepare_notebook(text: str) -> str:
    """A notebook's JSON in which each cell with a picture carries the words for it where MyST-NB looks for them."""
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        words = [output["metadata"].get("image/png", {}).get("alt") for output in cell.get("outputs", ()) if "data" in output]
        if any(words):
            cell["metadata"]["mystnb"] = {"image": {"alt": " ".join(filter(None, words))}}
    return json.dumps(notebook)


def for_a_page(app, tree: nodes.document) -> None:
    """For Sphinx's event ``doctree-read``."""
    for block in list(tree.findall(nodes.literal_block)):
        text = block.astext()
        if WIDGET.match(text):
            block.replace_self(nodes.container("", nodes.paragraph(text=NOTE), classes=["widget-note"]))
        elif CUDA_CELL.match(text):
            block["language"] = "cuda"
            block["highlight_args"] = {"force": True}  # the magic's own line is no CUDA
