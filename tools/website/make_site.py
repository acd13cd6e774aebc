"""Build the site into build/site: `make site`, or `python tools/website/make_site.py`.

The notebooks, the README and the tables are read where they are; nothing is executed. Warnings are errors, and so is a
link of a built page that leads nowhere.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import contents
from dead_links import built_pages, dead_links
from links import Links

HERE = Path(__file__).parent
BUILD = contents.ROOT / "build"
SOURCES, SITE = BUILD / "site-sources", BUILD / "site"


def lay_out(sources: Path) -> None:
    """Copies of the pages and of what they link to, as they lie in the repository, and the pages of the site alone."""
    shutil.rmtree(sources, ignore_errors=True)
    links = Links(contents.repository())
    for page in contents.pages():
        links.of_page((contents.ROOT / page).read_text(encoding="utf-8"), page)
    where = {page: contents.staged(page) for page in contents.pages()} | {file: file for file in links.copied}
    for file, place in where.items():
        (sources / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(contents.ROOT / file, sources / place)
    (sources / "solutions.md").write_text(contents.solutions(), encoding="utf-8")
    (sources / "run.md").write_text(contents.run_page(), encoding="utf-8")
    (sources / "api").mkdir()
    for name, text in contents.api_pages().items():
        (sources / "api" / f"{name}.rst").write_text(text, encoding="utf-8")


def main() -> int:
    from sphinx.cmd.build import main as sphinx

    lay_out(SOURCES)
    shutil.rmtree(SITE, ignore_errors=True)
    state = str(BUILD / "site-state")
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--fresh-env", "-j", "auto"]
    status = sphinx([*options, "-b", "html", "-c", str(HERE), "-d", state, str(SOURCES), str(SITE)])
    dead = dead_links(SITE)
    for fault in dead:
        print(f"site: {fault}", file=sys.stderr)
    if status == 0 and not dead:
        print(f"site: {len(built_pages(SITE))} pages, no dead links; open build/site/index.html")
    return int(bool(status or dead))


if __name__ == "__main__":
    sys.exit(main())
