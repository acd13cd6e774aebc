"""Docstrings are plain text with ``code`` and *emphasis*; Sphinx reads reStructuredText, which knows more signs."""

from __future__ import annotations

import inspect
import re

MARKED = re.compile(r"(``.+?``|(?<![\w*])\*[A-Za-z][^*]*\w\*(?!\w))", re.DOTALL)
LIST_ITEM = re.compile(r"(-|\d+\.) ")


def marked_up(text: str) -> str:
    """The text with every sign of reStructuredText made plain, outside of ``code`` and *emphasis*."""
    parts = MARKED.split(text)
    parts[::2] = [
        re.sub(r"([\\*|`]|_(?!\w))", r"\\\1", part).replace("->", "\N{RIGHTWARDS ARROW}") for part in parts[::2]
    ]
    return "".join(parts)


def paragraphs(text: str, parameters: list[str]) -> list[list[str]]:
    """The lines of each paragraph. A line on a parameter, on what is returned or raised begins one of its own."""
    starts = re.compile(rf"(?:{'|'.join(map(re.escape, [*parameters, 'Returns', 'Raises']))})\b[^.]*")
    found: list[list[str]] = [[]]
    for line in text.splitlines():
        begins = starts.match(line) and found[-1] and found[-1][-1].endswith((".", ":"))
        indented = line.startswith(" ") and found[-1] and not is_list(found[-1]) and not found[-1][0].startswith(" ")
        if not line.strip() or begins or indented:
            found.append([])
        if line.strip():
            found[-1].append(line)
    return [lines for lines in found if lines]


def is_list(lines: list[str]) -> bool:
    return any(LIST_ITEM.match(line) for line in lines)


def restructured(text: str, parameters: list[str]) -> list[str]:
    """A docstring as lines of reStructuredText: indented paragraphs become literal blocks, the others plain text."""
    result: list[str] = []
    for lines in paragraphs(text, parameters):
        if lines[0].startswith(" "):
            result += ["::", "", *(f"    {line}".replace("``", "") for line in lines), ""]
        else:
            plain = marked_up("\n".join(lines)).split("\n")
            first = next((number for number, line in enumerate(plain) if LIST_ITEM.match(line)), 0)
            result += plain[:first] + [""] * bool(first) + plain[first:] + [""]
    return result


def parameters_of(what) -> list[str]:
    try:
        return list(inspect.signature(what).parameters)
    except (TypeError, ValueError):  # a module, a constant
        return []


def process(app, kind, name, what, options, lines) -> None:
    """For Sphinx's event ``autodoc-process-docstring``."""
    lines[:] = restructured("\n".join(lines), parameters_of(what))
