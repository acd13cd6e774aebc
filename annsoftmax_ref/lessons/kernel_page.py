"""How a kernel cell is shown: its text with colours, which are those of the reader's theme, light or dark."""

from __future__ import annotations

import html
import re

from pygments.lexers.c_like import CudaLexer
from pygments.token import Comment, Keyword, Literal, Name, Token

# Kind of token: letter of its class, JupyterLab's own variable for it, and a colour that reads on white and on black.
COLOURS = [
    (Comment.Preproc, "p", "--jp-mirror-editor-meta-color", "#a0652a"),
    (Comment, "c", "--jp-mirror-editor-comment-color", "#6f8a8a"),
    (Name.Builtin, "b", "--jp-mirror-editor-builtin-color", "#2a8a2a"),
    (Keyword, "k", "--jp-mirror-editor-keyword-color", "#1a8a4a"),
    (Name.Variable.Global, "b", "--jp-mirror-editor-builtin-color", "#2a8a2a"),
    (Literal.Number, "n", "--jp-mirror-editor-number-color", "#4a80d0"),
    (Literal.String, "s", "--jp-mirror-editor-string-color", "#c04a4a"),
]
RULES = {letter: f"var({name},{colour})" for _, letter, name, colour in COLOURS}
STYLE = (
    ".cuda-cell{font-family:var(--jp-code-font-family,monospace);font-size:12px;line-height:1.35;margin:0;"
    "overflow-x:auto;white-space:pre;border-left:3px solid #8888;padding-left:8px}"
    ".cuda-cell i{font-style:normal;opacity:.5;user-select:none}"
    + "".join(f".cuda-cell .{letter}{{color:{colour}}}" for letter, colour in RULES.items())
)


def page(source: str, first_line: int = 2) -> str:
    """HTML of a source, with the numbers that its lines have in the cell (the magic is line 1)."""
    coloured = "".join(_token(kind, text) for kind, text in CudaLexer(stripnl=False).get_tokens(source.rstrip("\n")))
    lines = coloured.rstrip("\n").split("\n")
    width = len(str(first_line + len(lines)))
    numbered = "\n".join(f"<i>{number:>{width}}  </i>{line}" for number, line in enumerate(lines, first_line))
    return f'<pre class="cuda-cell">{numbered}</pre>'


def put_style() -> None:
    """Display what all sources of a notebook share; an extension does it when it is loaded."""
    _display(f"<style>{STYLE}</style>", "the colours of kernel cells")


def show(source: str, description: str) -> None:
    """Display the source in a notebook. description: its text for readers who do not see HTML."""
    _display(page(source), description)


def _display(page: str, words: str) -> None:
    from IPython.display import display

    display({"text/html": page, "text/plain": words}, raw=True)


def _token(kind: Token, text: str) -> str:
    letter = next((letter for parent, letter, _, _ in COLOURS if kind in parent), None)
    if letter is None or not text.strip():
        return html.escape(text, quote=False)
    # A comment of several lines is coloured line by line, as each line is numbered.
    return re.sub(
        r"[^\n]+", lambda line: f'<span class="{letter}">{html.escape(line.group(), quote=False)}</span>', text
    )
