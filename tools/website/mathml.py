"""Formulas as MathML, which browsers draw without a script: pages need no other host, and no network."""

from __future__ import annotations

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.util import logging

LOG = logging.getLogger(__name__)
SAME = {"{aligned}": "{split}"}  # an environment that latex2mathml does not know: one that looks as it does
LEFT_OVER = re.compile(r"\\|&(?!#?\w+;)")  # what it does not know it leaves as it is


def visit_math(writer, node: nodes.math) -> None:
    writer.body.append(markup(node, "inline"))
    raise nodes.SkipNode


def visit_display(writer, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="math-display">{markup(node, "block")}</div>\n')
    raise nodes.SkipNode


def markup(node: nodes.math | nodes.math_block, display: str) -> str:
    formula = node.astext()
    for unknown, known in SAME.items():
        formula = formula.replace(unknown, known)
    try:
        result = convert(formula, display=display)
    except Exception as error:  # its errors have no class in common
        result = f"\\ {type(error).__name__}"
    if LEFT_OVER.search(result):
        LOG.warning("the formula cannot be made MathML: %s", formula, location=node)
    return result


def setup(app) -> dict:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
