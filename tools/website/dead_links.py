"""Links of built pages that lead nowhere."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag


class Page(HTMLParser):
    """Of an HTML page: ``ids``, which links may name, and ``targets``, what it links to or shows."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.targets: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id" or (tag == "a" and name == "name"):
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.targets.add(value)


def built_pages(site: Path) -> list[Path]:
    """The site's pages; what lies in _static/ are the theme's templates."""
    return [path for path in sorted(site.rglob("*.html")) if path.relative_to(site).parts[0] != "_static"]


def dead_links(site: Path) -> list[str]:
    """A sentence for each link within the site, to a page, a part of one or a file, that is not there."""
    pages = {str(path): Page(path.read_text(encoding="utf-8")) for path in built_pages(site)}
    files = {str(path) for path in site.rglob("*") if path.is_file()}
    faults = []
    for path, page in pages.items():
        for target in sorted(page.targets):
            if re.match(r"[a-z][a-z+.-]*:|//", target):
                continue
            name, anchor = map(unquote, urldefrag(target))
            file = os.path.normpath(os.path.join(os.path.dirname(path), name.partition("?")[0])) if name else path
            where = os.path.relpath(path, site)
            if file not in files:
                faults.append(f"{where}: {target} is not there")
            elif anchor and file in pages and anchor not in pages[file].ids:
                faults.append(f"{where}: {target} names no part of that page")
    return faults
