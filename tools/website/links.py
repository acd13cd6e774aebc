"""Links of the repository's files, made links of the site.

A link to a page of the site stays one; a link to another file leads to the repository, where its address is known, and
to a copy in the site where not; a link to a folder leads to the page that tells of it.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

import contents

CODE = re.compile(r"(^```.*?^```|^~~~.*?^~~~|`+[^`\n]+`+)", re.MULTILINE | re.DOTALL)
MARKDOWN = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\(<?(?P<target>[^)\s>]+)>?\)")
HTML = re.compile(r"""(?P<before><(?P<tag>a|img)\b[^>]*?\b(?:href|src)=["'])(?P<target>[^"']+)""")
ELSEWHERE = re.compile(r"[a-z]+:|//|attachment:")


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it. JupyterLab's, with its capitals and signs, comes out the same."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@dataclass
class Links:
    """address: the repository's, or None. ``copied`` collects the files that the site needs a copy of."""

    address: str | None
    pages: frozenset[str] = field(default_factory=lambda: frozenset(contents.pages()))
    copied: set[str] = field(default_factory=set)

    def target(self, target: str, page: str, *, image: bool = False, html: bool = False) -> str | None:
        """Where a link of ``page`` leads to on the site; None: nowhere.

        html: the link stands in HTML, which Sphinx leaves as it is.
        """
        if ELSEWHERE.match(target):
            return target
        name, _, anchor = target.partition("#")
        anchor = f"#{slug(unquote(anchor))}" if anchor else ""
        if not name:
            return anchor
        file = posixpath.normpath(posixpath.join(posixpath.dirname(page), unquote(name)))
        if file in self.pages:
            leads_to = contents.staged(file)
            leads_to = os.path.splitext(leads_to)[0] + ".html" if html else leads_to
        elif (contents.ROOT / file).is_dir():
            return self._folder(file, page, html)
        elif self.address and not image:
            return f"{self.address}/blob/HEAD/{quote(file)}"
        elif (contents.ROOT / file).is_file():
            self.copied.add(file)
            leads_to, anchor = file, ""
        else:
            return target  # Sphinx tells of it
        here = posixpath.dirname(contents.staged(page)) or "."
        return quote(posixpath.relpath(leads_to, here)) + anchor

    def _folder(self, folder: str, page: str, html: bool) -> str | None:
        here = posixpath.dirname(contents.staged(page)) or "."
        package = folder.split("/")[0] in contents.PACKAGES and (contents.ROOT / folder / "__init__.py").is_file()
        if f"{folder}/README.md" in self.pages:
            leads_to = f"{folder}/README"
        elif package:
            leads_to = f"api/{folder.replace('/', '.')}"
        elif self.address:
            return f"{self.address}/tree/HEAD/{quote(folder)}"
        else:
            return None
        return posixpath.relpath(leads_to + (".html" if html else ".md" if not package else ".rst"), here)

    def rewritten(self, text: str, page: str) -> str:
        """Markdown with every link outside of code led to where it is to lead."""

        def markdown(match: re.Match) -> str:
            target = self.target(match["target"], page, image=bool(match["image"]))
            text = MARKDOWN.sub(markdown, match["text"])  # an image may be what a link shows
            return text if target is None else f"{match['image']}[{text}]({target})"

        def tag(match: re.Match) -> str:
            return match["before"] + (self.target(match["target"], page, image=match["tag"] == "img", html=True) or "#")

        return outside_of_code(text, lambda part: HTML.sub(tag, MARKDOWN.sub(markdown, part)))

    def rewritten_notebook(self, text: str, page: str) -> str:
        """A notebook's JSON with the links of its Markdown, stored outputs' too, led to where they are to lead."""
        notebook = json.loads(text)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = self.rewritten("".join(cell["source"]), page)
            for output in cell.get("outputs", ()):
                if "text/markdown" in output.get("data", {}):
                    output["data"]["text/markdown"] = self.rewritten("".join(output["data"]["text/markdown"]), page)
        return json.dumps(notebook)

    def of_page(self, text: str, page: str) -> str:
        notebook = PurePosixPath(page).suffix == ".ipynb"
        return self.rewritten_notebook(text, page) if notebook else self.rewritten(text, page)


def outside_of_code(text: str, change: Callable[[str], str]) -> str:
    """The text with ``change`` made to what is no code; a link's text may hold code, and stays in one piece."""
    kept: list[str] = []

    def keep(match: re.Match) -> str:
        kept.append(match[0])
        return f"\0{len(kept) - 1}\0"

    return re.sub(r"\0(\d+)\0", lambda match: kept[int(match[1])], change(CODE.sub(keep, text)))
